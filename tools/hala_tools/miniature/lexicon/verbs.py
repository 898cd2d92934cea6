"""Verbs.

Columns: English base, third person, past, participle, -ing form; Arabic past he; past I; past
she; past they; present he; present they; jussive he; imperative (empty when not used); frame.
A lone hyphen in an Arabic column means: formed regularly (see `lexicon._verb`).
Frame: the English preposition and its Arabic one (empty for a direct object), then the noun
classes which the complement may have; `none` for no complement.
"""

# ruff: noqa: E501  (a row stays on one line)

TABLE = """
write writes wrote written writing;كتب;-;-;-;يكتب;-;-;اكتب;;;written
read reads read read reading;قرأ;-;-;قرؤوا;يقرأ;يقرؤون;-;اقرأ;;;read
eat eats ate eaten eating;أكل;-;-;-;يأكل;-;-;كل;;;food
drink drinks drank drunk drinking;شرب;-;-;-;يشرب;-;-;اشرب;;;drink
buy buys bought bought buying;اشترى;اشتريت;اشترت;اشتروا;يشتري;يشترون;يشتر;اشتر;;;thing vehicle food clothes grocery animal
sell sells sold sold selling;باع;بعت;-;-;يبيع;-;يبع;بع;;;thing vehicle food clothes pet dear
see sees saw seen seeing;رأى;رأيت;رأت;رأوا;يرى;يرون;ير;;;;person animal vehicle building nature names
visit visits visited visited visiting;زار;زرت;-;-;يزور;-;يزر;زر;;;place town building family names cities
drive drives drove driven driving;قاد;قدت;-;-;يقود;-;يقد;قد;;;road
open opens opened opened opening;فتح;-;-;-;يفتح;-;-;افتح;;;opened
close closes closed closed closing;أغلق;-;-;-;يغلق;-;-;أغلق;;;opened
clean cleans cleaned cleaned cleaning;نظف;-;-;-;ينظف;-;-;نظف;;;clean
wash washes washed washed washing;غسل;-;-;-;يغسل;-;-;اغسل;;;washable
break breaks broke broken breaking;كسر;-;-;-;يكسر;-;-;;;;broken
cook cooks cooked cooked cooking;طبخ;-;-;-;يطبخ;-;-;اطبخ;;;cooked
cut cuts cut cut cutting;قطع;-;-;-;يقطع;-;-;اقطع;;;cuttable
carry carries carried carried carrying;حمل;-;-;-;يحمل;-;-;احمل;;;carried
find finds found found finding;وجد;-;-;-;يجد;-;-;;;;lost small solved
lose loses lost lost losing;فقد;-;-;-;يفقد;-;-;;;;lost
use uses used used using;استخدم;-;-;-;يستخدم;-;-;استخدم;;;used
repair repairs repaired repaired repairing;أصلح;-;-;-;يصلح;-;-;أصلح;;;fixable
know knows knew known knowing;عرف;-;-;-;يعرف;-;-;;;;known person names
help helps helped helped helping;ساعد;-;-;-;يساعد;-;-;ساعد;;;person family names
study studies studied studied studying;درس;-;-;-;يدرس;-;-;ادرس;;;studied subject matter
understand understands understood understood understanding;فهم;-;-;-;يفهم;-;-;افهم;;;known text
remember remembers remembered remembered remembering;تذكر;-;-;-;يتذكر;-;-;تذكر;;;known event
forget forgets forgot forgotten forgetting;نسي;-;-;نسوا;ينسى;ينسون;ينس;;;;known event lost
explain explains explained explained explaining;شرح;-;-;-;يشرح;-;-;اشرح;;;known matter
watch watches watched watched watching;شاهد;-;-;-;يشاهد;-;-;شاهد;;;seen
hear hears heard heard hearing;سمع;-;-;-;يسمع;-;-;;;;heard
meet meets met met meeting;قابل;-;-;-;يقابل;-;-;قابل;;;person names family
thank thanks thanked thanked thanking;شكر;-;-;-;يشكر;-;-;اشكر;;;person names family
ask asks asked asked asking;سأل;-;-;-;يسأل;-;-;اسأل;;;person names family
send sends sent sent sending;أرسل;-;-;-;يرسل;-;-;أرسل;;;sent
receive receives received received receiving;استلم;-;-;-;يستلم;-;-;;;;sent
draw draws drew drawn drawing;رسم;-;-;-;يرسم;-;-;ارسم;;;drawn
enter enters entered entered entering;دخل;-;-;-;يدخل;-;-;ادخل;;;place indoor building
leave leaves left left leaving;غادر;-;-;-;يغادر;-;-;غادر;;;place indoor building cities
begin begins began begun beginning;بدأ;-;-;بدؤوا;يبدأ;يبدؤون;-;ابدأ;;;finished event exam
finish finishes finished finished finishing;أنهى;أنهيت;أنهت;أنهوا;ينهي;ينهون;ينه;أنه;;;finished exam text
choose chooses chose chosen choosing;اختار;اخترت;-;-;يختار;-;يختر;اختر;;;chosen clothes read
build builds built built building;بنى;بنيت;بنت;بنوا;يبني;يبنون;يبن;;;;building built
take takes took taken taking;أخذ;-;-;-;يأخذ;-;-;خذ;;;small carried
bring brings brought brought bringing;جلب;-;-;-;يجلب;-;-;اجلب;;;small carried food drink
wear wears wore worn wearing;ارتدى;ارتديت;ارتدت;ارتدوا;يرتدي;يرتدون;يرتد;ارتد;;;clothes
plant plants planted planted planting;زرع;-;-;-;يزرع;-;-;ازرع;;;plant
climb climbs climbed climbed climbing;تسلق;-;-;-;يتسلق;-;-;تسلق;;;climb
cross crosses crossed crossed crossing;عبر;-;-;-;يعبر;-;-;اعبر;;;way
feed feeds fed fed feeding;أطعم;-;-;-;يطعم;-;-;أطعم;;;pet young
ride rides rode ridden riding;ركب;-;-;-;يركب;-;-;اركب;;;ride
respect respects respected respected respecting;احترم;-;-;-;يحترم;-;-;احترم;;;person family names
discuss discusses discussed discussed discussing;ناقش;-;-;-;يناقش;-;-;ناقش;;;matter solved
solve solves solved solved solving;حل;حللت;-;-;يحل;-;-;حل;;;solved
attend attends attended attended attending;حضر;-;-;-;يحضر;-;-;احضر;;;event
love loves loved loved loving;أحب;أحببت;-;-;يحب;-;-;;;;generic
go goes went gone going;ذهب;-;-;-;يذهب;-;-;اذهب;to;إلى;goal town
travel travels travelled travelled travelling;سافر;-;-;-;يسافر;-;-;سافر;to;إلى;cities town
return returns returned returned returning;عاد;عدت;-;-;يعود;-;يعد;عد;to;إلى;goal cities
run runs ran run running;ركض;-;-;-;يركض;-;-;اركض;in;في;outdoor
walk walks walked walked walking;مشى;مشيت;مشت;مشوا;يمشي;يمشون;يمش;امش;in;في;outdoor
live lives lived lived living;سكن;-;-;-;يسكن;-;-;;in;في;cities town
work works worked worked working;عمل;-;-;-;يعمل;-;-;اعمل;in;في;work
sit sits sat sat sitting;جلس;-;-;-;يجلس;-;-;اجلس;on;على;seat
sleep sleeps slept slept sleeping;نام;نمت;-;-;ينام;-;ينم;نم;in;في;indoor
swim swims swam swum swimming;سبح;-;-;-;يسبح;-;-;اسبح;in;في;water
play plays played played playing;لعب;-;-;-;يلعب;-;-;العب;in;في;outdoor indoor
stand stands stood stood standing;وقف;-;-;-;يقف;-;-;قف;in front of;أمام;building opened
wait waits waited waited waiting;انتظر;-;-;-;ينتظر;-;-;انتظر;for;;person vehicle names
talk talks talked talked talking;تحدث;-;-;-;يتحدث;-;-;تحدث;to;مع;person family names
look looks looked looked looking;نظر;-;-;-;ينظر;-;-;انظر;at;إلى;drawn nature sky building
listen listens listened listened listening;استمع;-;-;-;يستمع;-;-;استمع;to;إلى;heard person
think thinks thought thought thinking;فكر;-;-;-;يفكر;-;-;فكر;about;في;matter solved event
search searches searched searched searching;بحث;-;-;-;يبحث;-;-;ابحث;for;عن;lost small position
need needs needed needed needing;احتاج;احتجت;-;-;يحتاج;-;يحتج;;;إلى;used thing position grocery
succeed succeeds succeeded succeeded succeeding;نجح;-;-;-;ينجح;-;-;;in;في;exam
smile smiles smiled smiled smiling;ابتسم;-;-;-;يبتسم;-;-;ابتسم;;;none
laugh laughs laughed laughed laughing;ضحك;-;-;-;يضحك;-;-;اضحك;;;none
cry cries cried cried crying;بكى;بكيت;بكت;بكوا;يبكي;يبكون;يبك;;;;none
want wants wanted wanted wanting;أراد;أردت;-;-;يريد;-;يرد;;;;modal
can can could could -;استطاع;استطعت;-;-;يستطيع;-;يستطع;;;;modal
give gives gave given giving;أعطى;أعطيت;أعطت;أعطوا;يعطي;يعطون;يعط;أعط;;;give
put puts put put putting;وضع;-;-;-;يضع;-;-;ضع;;;put
say says said said saying;قال;قلت;-;-;يقول;-;يقل;قل;;;that
speak speaks spoke spoken speaking;تحدث;-;-;-;يتحدث;-;-;;;;language
learn learns learned learned learning;تعلم;-;-;-;يتعلم;-;-;;;;language
believe believes believed believed believing;اعتقد;-;-;-;يعتقد;-;-;;;;that
"""
