"""Common nouns.

Columns: English singular; English plural; Arabic singular; Arabic plural; gender (m, f);
plural kind (sm sound masculine, sf sound feminine, b broken taking tanween, d broken without
it, - no plural); semantic classes. A noun without an English plural is a mass noun.
"""

TABLE = """
teacher;teachers;معلم;معلمون;m;sm;job person
doctor;doctors;طبيب;أطباء;m;d;job person
engineer;engineers;مهندس;مهندسون;m;sm;job person
student;students;طالب;طلاب;m;b;job person
nurse;nurses;ممرض;ممرضون;m;sm;job person
driver;drivers;سائق;سائقون;m;sm;job person
farmer;farmers;مزارع;مزارعون;m;sm;job person
cook;cooks;طباخ;طباخون;m;sm;job person
author;authors;مؤلف;مؤلفون;m;sm;job person
journalist;journalists;صحفي;صحفيون;m;sm;job person
manager;managers;مدير;مديرون;m;sm;job person
employee;employees;موظف;موظفون;m;sm;job person
worker;workers;عامل;عمال;m;b;job person
soldier;soldiers;جندي;جنود;m;b;job person
artist;artists;فنان;فنانون;m;sm;job person
player;players;لاعب;لاعبون;m;sm;job person
merchant;merchants;تاجر;تجار;m;b;job person
baker;bakers;خباز;خبازون;m;sm;job person
carpenter;carpenters;نجار;نجارون;m;sm;job person
pilot;pilots;طيار;طيارون;m;sm;job person
tailor;tailors;خياط;خياطون;m;sm;job person
translator;translators;مترجم;مترجمون;m;sm;job person
researcher;researchers;باحث;باحثون;m;sm;job person
scientist;scientists;عالم;علماء;m;d;job person
president;presidents;رئيس;رؤساء;m;d;job person
guard;guards;حارس;حراس;m;b;job person
poet;poets;شاعر;شعراء;m;d;job person
accountant;accountants;محاسب;محاسبون;m;sm;job person
photographer;photographers;مصور;مصورون;m;sm;job person
programmer;programmers;مبرمج;مبرمجون;m;sm;job person
man;men;رجل;رجال;m;b;person
woman;women;امرأة;نساء;f;d;person
boy;boys;ولد;أولاد;m;b;person young
girl;girls;بنت;بنات;f;sf;person young
child;children;طفل;أطفال;m;b;person young
neighbour;neighbours;جار;جيران;m;b;person owned
guest;guests;ضيف;ضيوف;m;b;person owned
friend;friends;صديق;أصدقاء;m;d;person owned
visitor;visitors;زائر;زوار;m;b;person
king;kings;ملك;ملوك;m;b;person
queen;queens;ملكة;ملكات;f;sf;person
father;;والد;;m;-;family
mother;;والدة;;f;-;family
brother;brothers;أخ;إخوة;m;d;family
sister;sisters;أخت;أخوات;f;sf;family
son;sons;ابن;أبناء;m;d;family
daughter;;ابنة;;f;-;family
uncle;uncles;عم;أعمام;m;b;family
aunt;aunts;عمة;عمات;f;sf;family
grandfather;;جد;;m;-;family
grandmother;;جدة;;f;-;family
wife;;زوجة;;f;-;family
cat;cats;قط;قطط;m;b;animal pet drawn
dog;dogs;كلب;كلاب;m;b;animal pet drawn
horse;horses;حصان;أحصنة;m;d;animal pet ride drawn
cow;cows;بقرة;أبقار;f;b;animal pet
bird;birds;طائر;طيور;m;b;animal pet drawn
whale;whales;حوت;حيتان;m;b;animal drawn
elephant;elephants;فيل;أفيال;m;b;animal drawn
goat;goats;عنزة;عنزات;f;sf;animal pet
rabbit;rabbits;أرنب;أرانب;m;d;animal pet drawn
mouse;mice;فأر;فئران;m;b;animal
tiger;tigers;نمر;نمور;m;b;animal drawn
monkey;monkeys;قرد;قرود;m;b;animal
chicken;chickens;دجاجة;دجاجات;f;sf;animal pet
donkey;donkeys;حمار;حمير;m;b;animal pet ride
gazelle;gazelles;غزال;غزلان;m;b;animal
wolf;wolves;ذئب;ذئاب;m;b;animal
fox;foxes;ثعلب;ثعالب;m;d;animal
butterfly;butterflies;فراشة;فراشات;f;sf;animal drawn
bee;bees;نحلة;نحلات;f;sf;animal
duck;ducks;بطة;بطات;f;sf;animal pet
apple;apples;تفاحة;تفاحات;f;sf;food cuttable
orange;oranges;برتقالة;برتقالات;f;sf;food cuttable
banana;bananas;موزة;موزات;f;sf;food
egg;eggs;بيضة;بيضات;f;sf;food cooked
sandwich;sandwiches;شطيرة;شطائر;f;d;food
cake;cakes;كعكة;كعكات;f;sf;food cuttable
lemon;lemons;ليمونة;ليمونات;f;sf;food cuttable
onion;onions;بصلة;بصلات;f;sf;food cuttable
bread;;خبز;;m;-;food cuttable mass grocery
rice;;أرز;;m;-;food cooked mass grocery
cheese;;جبن;;m;-;food cuttable mass grocery
meat;;لحم;;m;-;food cooked cuttable mass grocery
honey;;عسل;;m;-;food mass grocery
sugar;;سكر;;m;-;grocery mass
salt;;ملح;;m;-;grocery mass
butter;;زبدة;;f;-;food mass grocery
soup;;حساء;;m;-;food cooked mass
fruit;;فاكهة;;f;-;food mass grocery
chocolate;;شوكولاتة;;f;-;food mass grocery
water;;ماء;;m;-;drink mass grocery
milk;;حليب;;m;-;drink mass grocery
tea;;شاي;;m;-;drink mass grocery
coffee;;قهوة;;f;-;drink mass grocery
juice;;عصير;;m;-;drink mass grocery
car;cars;سيارة;سيارات;f;sf;vehicle road thing dear fixable washable owned
bus;buses;حافلة;حافلات;f;sf;vehicle road ride thing
train;trains;قطار;قطارات;m;sf;vehicle ride thing
bicycle;bicycles;دراجة;دراجات;f;sf;vehicle ride thing fixable washable owned
plane;planes;طائرة;طائرات;f;sf;vehicle thing
ship;ships;سفينة;سفن;f;b;vehicle thing
boat;boats;قارب;قوارب;m;d;vehicle thing fixable owned
truck;trucks;شاحنة;شاحنات;f;sf;vehicle road thing fixable
house;houses;بيت;بيوت;m;b;place building clean owned drawn dear
school;schools;مدرسة;مدارس;f;d;place building work goal
university;universities;جامعة;جامعات;f;sf;place work goal
market;markets;سوق;أسواق;f;b;place goal
hospital;hospitals;مستشفى;مستشفيات;m;sf;place building work goal
restaurant;restaurants;مطعم;مطاعم;m;d;place building work goal clean
library;libraries;مكتبة;مكتبات;f;sf;place building work goal
garden;gardens;حديقة;حدائق;f;d;place goal clean owned outdoor
street;streets;شارع;شوارع;m;d;outdoor way
city;cities;مدينة;مدن;f;b;place town
village;villages;قرية;قرى;f;d;place town goal owned
office;offices;مكتب;مكاتب;m;d;place goal clean owned
room;rooms;غرفة;غرف;f;b;indoor clean owned
kitchen;kitchens;مطبخ;مطابخ;m;d;indoor clean owned
hotel;hotels;فندق;فنادق;m;d;place building work goal
airport;airports;مطار;مطارات;m;sf;place work goal
station;stations;محطة;محطات;f;sf;place goal
museum;museums;متحف;متاحف;m;d;place building work goal
bank;banks;بنك;بنوك;m;b;place building work goal
shop;shops;متجر;متاجر;m;d;place building work goal clean
factory;factories;مصنع;مصانع;m;d;place building work goal
farm;farms;مزرعة;مزارع;f;d;place work goal owned outdoor
mosque;mosques;مسجد;مساجد;m;d;place building goal
bridge;bridges;جسر;جسور;m;b;way built
building;buildings;بناية;بنايات;f;sf;building place
stadium;stadiums;ملعب;ملاعب;m;d;place goal building outdoor
theatre;theatres;مسرح;مسارح;m;d;place goal building work
beach;beaches;شاطئ;شواطئ;m;d;place goal
river;rivers;نهر;أنهار;m;b;nature way water drawn
mountain;mountains;جبل;جبال;m;b;nature climb drawn
sea;seas;بحر;بحار;m;b;nature water drawn
lake;lakes;بحيرة;بحيرات;f;sf;nature water place
forest;forests;غابة;غابات;f;sf;nature place outdoor goal
island;islands;جزيرة;جزر;f;b;nature place goal
field;fields;حقل;حقول;m;b;outdoor goal owned
palace;palaces;قصر;قصور;m;b;place building
castle;castles;قلعة;قلاع;f;b;place building
pharmacy;pharmacies;صيدلية;صيدليات;f;sf;place work goal
company;companies;شركة;شركات;f;sf;work place owned
country;countries;دولة;دول;f;b;land
square;squares;ساحة;ساحات;f;sf;outdoor way
book;books;كتاب;كتب;m;b;text written read thing owned carried
letter;letters;رسالة;رسائل;f;d;text written read sent
story;stories;قصة;قصص;f;b;text written read heard known
poem;poems;قصيدة;قصائد;f;d;text written read heard
report;reports;تقرير;تقارير;m;d;text written read sent finished
article;articles;مقال;مقالات;m;sf;text written read finished
newspaper;newspapers;صحيفة;صحف;f;b;read thing
magazine;magazines;مجلة;مجلات;f;sf;read thing
novel;novels;رواية;روايات;f;sf;text written read
dictionary;dictionaries;قاموس;قواميس;m;d;read thing used owned
lesson;lessons;درس;دروس;m;b;known finished studied
sentence;sentences;جملة;جمل;f;b;text written read known
word;words;كلمة;كلمات;f;sf;written read known heard
question;questions;سؤال;أسئلة;m;d;known heard
answer;answers;إجابة;إجابات;f;sf;known chosen
song;songs;أغنية;أغنيات;f;sf;heard chosen
film;films;فيلم;أفلام;m;b;seen chosen
match;matches;مباراة;مباريات;f;sf;seen
picture;pictures;صورة;صور;f;b;sent thing chosen owned
exam;exams;امتحان;امتحانات;m;sf;exam
door;doors;باب;أبواب;m;b;opened fixable
window;windows;نافذة;نوافذ;f;d;opened broken washable
table;tables;طاولة;طاولات;f;sf;surface thing fixable dear
chair;chairs;كرسي;كراسي;m;d;seat surface thing fixable
bed;;سرير;;m;-;seat surface thing
key;keys;مفتاح;مفاتيح;m;d;thing small owned lost used
phone;phones;هاتف;هواتف;m;d;thing small owned lost used fixable broken dear
computer;computers;حاسوب;حواسيب;m;d;thing owned used fixable dear
pen;pens;قلم;أقلام;m;b;thing small owned lost used
bag;bags;حقيبة;حقائب;f;d;thing owned lost opened carried container
box;boxes;صندوق;صناديق;m;d;thing opened carried container
cup;cups;كوب;أكواب;m;b;thing small broken washable
plate;plates;طبق;أطباق;m;b;thing small broken washable
knife;knives;سكين;سكاكين;m;d;thing small used
spoon;spoons;ملعقة;ملاعق;f;d;thing small used washable
lamp;lamps;مصباح;مصابيح;m;d;thing broken fixable
ball;balls;كرة;كرات;f;sf;thing small lost
toy;toys;لعبة;ألعاب;f;b;thing small broken fixable
gift;gifts;هدية;هدايا;f;d;thing sent opened chosen
ticket;tickets;تذكرة;تذاكر;f;d;thing small lost
umbrella;umbrellas;مظلة;مظلات;f;sf;thing lost owned carried
map;maps;خريطة;خرائط;f;d;thing used drawn read
carpet;carpets;سجادة;سجادات;f;sf;thing washable dear
flower;flowers;زهرة;زهور;f;b;plant drawn
tree;trees;شجرة;أشجار;f;b;plant climb drawn
wall;walls;جدار;جدران;m;b;climb
notebook;notebooks;دفتر;دفاتر;m;d;thing small owned lost opened
bottle;bottles;زجاجة;زجاجات;f;sf;thing small broken opened
coat;coats;معطف;معاطف;m;d;clothes thing washable owned
shirt;shirts;قميص;قمصان;m;b;clothes thing washable owned
dress;dresses;فستان;فساتين;m;d;clothes thing washable
hat;hats;قبعة;قبعات;f;sf;clothes thing owned lost
ring;rings;خاتم;خواتم;m;d;thing small lost dear
machine;machines;آلة;آلات;f;sf;used fixable thing
sun;;شمس;;f;-;sky
moon;;قمر;;m;-;sky
sky;;سماء;;f;-;sky
star;stars;نجم;نجوم;m;b;star
history;;تاريخ;;m;-;subject topic
music;;موسيقى;;f;-;topic
sport;;رياضة;;f;-;topic
health;;صحة;;f;-;topic
education;;تعليم;;m;-;topic
peace;;سلام;;m;-;topic
life;;حياة;;f;-;topic
friendship;;صداقة;;f;-;topic
travel;;سفر;;m;-;topic
mathematics;;رياضيات;;f;-;subject
idea;ideas;فكرة;أفكار;f;b;matter known
problem;problems;مشكلة;مشاكل;f;d;matter solved
project;projects;مشروع;مشاريع;m;d;matter finished
plan;plans;خطة;خطط;f;b;matter
trip;trips;رحلة;رحلات;f;sf;event
party;parties;حفلة;حفلات;f;sf;event
meeting;meetings;اجتماع;اجتماعات;m;sf;event
job;jobs;وظيفة;وظائف;f;d;position
animal;animals;حيوان;حيوانات;m;sf;kind animal drawn
colour;colours;لون;ألوان;m;b;kind chosen
name;names;اسم;أسماء;m;d;known
day;days;يوم;أيام;m;b;period
week;weeks;أسبوع;أسابيع;m;d;period
month;months;شهر;أشهر;m;b;period
year;years;سنة;سنوات;f;sf;period
hour;hours;ساعة;ساعات;f;sf;period
minute;minutes;دقيقة;دقائق;f;d;period
dollar;dollars;دولار;دولارات;m;sf;money
dinar;dinars;دينار;دنانير;m;d;money
pound;pounds;جنيه;جنيهات;m;sf;money
riyal;riyals;ريال;ريالات;m;sf;money
dirham;dirhams;درهم;دراهم;m;d;money
"""
