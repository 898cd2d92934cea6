"""Adjectives.

Columns: English; masculine singular; feminine singular; masculine human plural (empty when the
adjective is not said of people); plural kind (sm, b, d as for nouns, -); English comparative;
Arabic comparative (invariable; empty when there is none); noun classes it may describe.
"""

# ruff: noqa: E501  (a row stays on one line)

TABLE = """
big;كبير;كبيرة;;-;bigger;أكبر;animal vehicle place indoor nature thing building plant food fixed kind town land event outdoor
small;صغير;صغيرة;;-;smaller;أصغر;animal vehicle place indoor thing building plant food town land
tall;طويل;طويلة;طوال;b;taller;أطول;person family building plant
short;قصير;قصيرة;قصار;b;shorter;أقصر;person family written text event
long;طويل;طويلة;;-;longer;أطول;written text way event river
new;جديد;جديدة;جدد;b;newer;أحدث;thing vehicle building place text read clothes matter seen heard exam job position used indoor opened
old;قديم;قديمة;;-;older;أقدم;thing vehicle building place text read clothes heard seen opened indoor
beautiful;جميل;جميلة;;-;more beautiful;أجمل;animal place nature plant clothes heard indoor building town thing land written seen sky star
clean;نظيف;نظيفة;;-;cleaner;أنظف;place indoor clothes vehicle building opened outdoor washable
easy;سهل;سهلة;;-;easier;أسهل;known exam text matter studied
difficult;صعب;صعبة;;-;more difficult;أصعب;known exam text matter solved studied position
fast;سريع;سريعة;;-;faster;أسرع;vehicle animal
slow;بطيء;بطيئة;;-;slower;أبطأ;vehicle
heavy;ثقيل;ثقيلة;;-;heavier;أثقل;carried surface fixable container
light;خفيف;خفيفة;;-;lighter;أخف;carried small clothes
strong;قوي;قوية;أقوياء;d;stronger;أقوى;animal person family
weak;ضعيف;ضعيفة;ضعفاء;d;weaker;أضعف;animal person
happy;سعيد;سعيدة;سعداء;d;happier;أسعد;person family
sad;حزين;حزينة;حزينون;sm;;;person family text heard seen
kind;لطيف;لطيفة;لطفاء;d;kinder;ألطف;person family
smart;ذكي;ذكية;أذكياء;d;smarter;أذكى;person family
hard-working;مجتهد;مجتهدة;مجتهدون;sm;;;person
famous;مشهور;مشهورة;مشهورون;sm;more famous;أشهر;person text place building written seen heard town
rich;غني;غنية;أغنياء;d;richer;أغنى;person land
poor;فقير;فقيرة;فقراء;d;poorer;أفقر;person land
busy;مشغول;مشغولة;مشغولون;sm;;;person family
tired;متعب;متعبة;متعبون;sm;;;person family
sick;مريض;مريضة;مرضى;d;;;person family pet
angry;غاضب;غاضبة;غاضبون;sm;;;person family
honest;صادق;صادقة;صادقون;sm;;;person
brave;شجاع;شجاعة;شجعان;b;braver;أشجع;person
generous;كريم;كريمة;كرماء;d;more generous;أكرم;person family
hungry;جائع;جائعة;جائعون;sm;;;person pet family
important;مهم;مهمة;مهمون;sm;more important;أهم;known text matter event exam read written studied place person
useful;مفيد;مفيدة;;-;more useful;أفيد;known text matter read used studied event
interesting;ممتع;ممتعة;;-;more interesting;أمتع;text read seen heard event written place
cheap;رخيص;رخيصة;;-;cheaper;أرخص;thing clothes vehicle dear food
precious;ثمين;ثمينة;;-;more precious;أثمن;dear sent
hot;ساخن;ساخنة;;-;hotter;أسخن;drink cooked
cold;بارد;باردة;;-;colder;أبرد;drink indoor water
fresh;طازج;طازجة;;-;;;food mass
delicious;لذيذ;لذيذة;;-;more delicious;ألذ;food drink
wide;واسع;واسعة;;-;wider;أوسع;way indoor outdoor
narrow;ضيق;ضيقة;;-;narrower;أضيق;way indoor
near;قريب;قريبة;;-;nearer;أقرب;building place nature town
far;بعيد;بعيدة;;-;farther;أبعد;building place nature town
quiet;هادئ;هادئة;;-;quieter;أهدأ;indoor place town outdoor
crowded;مزدحم;مزدحمة;;-;;;way goal town
modern;حديث;حديثة;;-;;;building vehicle place
open;مفتوح;مفتوحة;;-;;;opened goal
closed;مغلق;مغلقة;;-;;;opened goal
empty;فارغ;فارغة;;-;;;container indoor
full;ممتلئ;ممتلئة;;-;;;container goal
strange;غريب;غريبة;;-;stranger;أغرب;text heard animal known matter seen
red;أحمر;حمراء;;-;;;thing vehicle clothes
blue;أزرق;زرقاء;;-;;;thing vehicle clothes
green;أخضر;خضراء;;-;;;thing vehicle clothes
yellow;أصفر;صفراء;;-;;;thing vehicle clothes
white;أبيض;بيضاء;;-;;;thing vehicle clothes
black;أسود;سوداء;;-;;;thing vehicle clothes
Egyptian;مصري;مصرية;مصريون;sm;;;person text vehicle food seen heard
Arab;عربي;عربية;عرب;b;;;person land
French;فرنسي;فرنسية;فرنسيون;sm;;;person text read seen heard cars
Japanese;ياباني;يابانية;يابانيون;sm;;;person vehicle seen used
Turkish;تركي;تركية;أتراك;b;;;person seen place
"""
