"""People, cities, countries and languages.

PEOPLE: English; Arabic; gender; `t` when the accusative takes tanween (سميرا), else `d`.
COUNTRIES: country; Arabic; capital; Arabic. CITIES: further cities. LANGUAGES: English; Arabic.
"""

PEOPLE = """
Samir;سمير;m;t
Ahmed;أحمد;m;d
Mohammed;محمد;m;t
Ali;علي;m;t
Khalid;خالد;m;t
Omar;عمر;m;d
Youssef;يوسف;m;d
Ibrahim;إبراهيم;m;d
Karim;كريم;m;t
Hassan;حسن;m;t
Yasser;ياسر;m;t
Salim;سليم;m;t
Mahmoud;محمود;m;t
Mustafa;مصطفى;m;d
Nabil;نبيل;m;t
Faris;فارس;m;t
Ziad;زياد;m;t
Tariq;طارق;m;t
Adel;عادل;m;t
Tom;توم;m;d
Fatima;فاطمة;f;d
Mona;منى;f;d
Layla;ليلى;f;d
Mariam;مريم;f;d
Huda;هدى;f;d
Nour;نور;f;d
Sara;سارة;f;d
Zeinab;زينب;f;d
Salma;سلمى;f;d
Amina;أمينة;f;d
Rania;رانيا;f;d
Dina;دينا;f;d
Samira;سميرة;f;d
Khadija;خديجة;f;d
Aisha;عائشة;f;d
Nadia;نادية;f;d
Mary;ماري;f;d
Hala;هالة;f;d
"""

COUNTRIES = """
Egypt;مصر;Cairo;القاهرة
Syria;سوريا;Damascus;دمشق
Lebanon;لبنان;Beirut;بيروت
Iraq;العراق;Baghdad;بغداد
Jordan;الأردن;Amman;عمان
Palestine;فلسطين;Jerusalem;القدس
Saudi Arabia;السعودية;Riyadh;الرياض
Qatar;قطر;Doha;الدوحة
Morocco;المغرب;Rabat;الرباط
Sudan;السودان;Khartoum;الخرطوم
Libya;ليبيا;Tripoli;طرابلس
Yemen;اليمن;Sanaa;صنعاء
Turkey;تركيا;Ankara;أنقرة
Iran;إيران;Tehran;طهران
France;فرنسا;Paris;باريس
Germany;ألمانيا;Berlin;برلين
Italy;إيطاليا;Rome;روما
Spain;إسبانيا;Madrid;مدريد
England;إنجلترا;London;لندن
Russia;روسيا;Moscow;موسكو
Japan;اليابان;Tokyo;طوكيو
China;الصين;Beijing;بكين
Greece;اليونان;Athens;أثينا
Portugal;البرتغال;Lisbon;لشبونة
Austria;النمسا;Vienna;فيينا
"""

CITIES = """
Alexandria;الإسكندرية
Aleppo;حلب
Dubai;دبي
Mecca;مكة
Marrakesh;مراكش
Istanbul;إسطنبول
New York;نيويورك
Casablanca;الدار البيضاء
"""

LANGUAGES = """
Arabic;العربية
English;الإنجليزية
French;الفرنسية
German;الألمانية
Spanish;الإسبانية
Italian;الإيطالية
Chinese;الصينية
Turkish;التركية
"""
