"""Closed classes: pronouns, adverbs, prepositions, days, months, number words.

ADVERBS: English; Arabic; tenses it goes with (n present habit, g progressive, p past, f future).
"""

# key: English subject, possessive; Arabic pronoun, suffix, suffix on a preposition with alif
PRONOUNS = """
I;I;my;أنا;ي
you;you;your;أنت;ك
he;he;his;هو;ه
she;she;her;هي;ها
we;we;our;نحن;نا
they;they;their;هم;هم
"""

ADVERBS = """
every day;كل يوم;n
every week;كل أسبوع;n
every morning;كل صباح;n
every evening;كل مساء;n
sometimes;أحيانا;n
now;الآن;g
yesterday;أمس;p
last week;الأسبوع الماضي;p
last month;الشهر الماضي;p
last year;السنة الماضية;p
two days ago;قبل يومين;p
an hour ago;قبل ساعة;p
this morning;هذا الصباح;p
tomorrow;غدا;f
next week;الأسبوع القادم;f
next month;الشهر القادم;f
next year;السنة القادمة;f
in two days;بعد يومين;f
soon;قريبا;f
today;اليوم;pf
quickly;بسرعة;npf
again;مرة أخرى;pf
in the morning;في الصباح;npf
in the evening;في المساء;npf
at night;في الليل;npf
"""

PLACES = """
in;في;place indoor town outdoor container building
near;قرب;place building nature plant opened
behind;خلف;building place plant opened
in front of;أمام;building place plant
beside;بجانب;surface building plant place
under;تحت;surface plant
on;على;surface
"""

DAYS = """
Saturday;السبت
Sunday;الأحد
Monday;الاثنين
Tuesday;الثلاثاء
Wednesday;الأربعاء
Thursday;الخميس
Friday;الجمعة
"""

MONTHS = """
January;يناير
February;فبراير
March;مارس
April;أبريل
May;مايو
June;يونيو
July;يوليو
August;أغسطس
September;سبتمبر
October;أكتوبر
November;نوفمبر
December;ديسمبر
"""

# number; English; Arabic counting a masculine noun; Arabic counting a feminine noun
NUMBERS = """
1;one;واحد;واحدة
2;two;اثنان;اثنتان
3;three;ثلاثة;ثلاث
4;four;أربعة;أربع
5;five;خمسة;خمس
6;six;ستة;ست
7;seven;سبعة;سبع
8;eight;ثمانية;ثماني
9;nine;تسعة;تسع
10;ten;عشرة;عشر
11;eleven;أحد عشر;إحدى عشرة
12;twelve;اثنا عشر;اثنتا عشرة
13;thirteen;ثلاثة عشر;ثلاث عشرة
14;fourteen;أربعة عشر;أربع عشرة
15;fifteen;خمسة عشر;خمس عشرة
16;sixteen;ستة عشر;ست عشرة
17;seventeen;سبعة عشر;سبع عشرة
18;eighteen;ثمانية عشر;ثماني عشرة
19;nineteen;تسعة عشر;تسع عشرة
20;twenty;عشرون;عشرون
30;thirty;ثلاثون;ثلاثون
40;forty;أربعون;أربعون
50;fifty;خمسون;خمسون
60;sixty;ستون;ستون
70;seventy;سبعون;سبعون
80;eighty;ثمانون;ثمانون
90;ninety;تسعون;تسعون
100;one hundred;مئة;مئة
"""

# ordinal: English; masculine; feminine; the hour (with article)
ORDINALS = """
first;أول;أولى;الواحدة
second;ثاني;ثانية;الثانية
third;ثالث;ثالثة;الثالثة
fourth;رابع;رابعة;الرابعة
fifth;خامس;خامسة;الخامسة
sixth;سادس;سادسة;السادسة
seventh;سابع;سابعة;السابعة
eighth;ثامن;ثامنة;الثامنة
ninth;تاسع;تاسعة;التاسعة
tenth;عاشر;عاشرة;العاشرة
eleventh;حادي عشر;حادية عشرة;الحادية عشرة
twelfth;ثاني عشر;ثانية عشرة;الثانية عشرة
"""
