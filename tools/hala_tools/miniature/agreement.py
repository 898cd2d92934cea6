"""Sentences of the hand-written agreement test, kept out of every split.

Their Arabic stands in `tests/tools/agreement_sentences.tsv`; a test holds the two lists together.
"""

AGREEMENT_SENTENCES = (
    "My sister is a doctor.",
    "The two girls are tired today.",
    "These books are useful.",
    "Samir bought three new books.",
    "Mona ate five apples yesterday.",
    "The teacher has fifteen students.",
    "There are twenty-one cars in front of the hotel.",
    "Our house is bigger than your house.",
    "They did not write the letter.",
    "Nadia did not buy the green dress.",
    "I did not sleep in the room.",
    "Do not sell your house.",
    "He met two doctors in the museum.",
    "The employees were busy.",
    "I know that the engineers are honest.",
    "She wants to visit her grandmother tomorrow.",
    "The nurses want to drink tea.",
    "You must open the two windows.",
    "Did you see my brother?",
    "His brother is sick.",
    "How many eggs did Layla eat?",
    "Where did the two guests sit?",
    "The doors of the school are closed.",
    "This is the longest bridge in the city.",
    "If Ahmed goes to the market, he will buy bread.",
    "We waited for the train for eleven minutes.",
    "The film begins at half past eight.",
    "Fatima is not a teacher.",
    "There are no red flowers in the garden.",
    "Write four short sentences about the sea.",
    "The woman gave the boy a red ball.",
    "My friends live in Cairo.",
)
