"""The words that fictitious people are made of: names, and for each attribute its values and its sentences.

Every attribute has exactly one true value, so that a sentence with another value is false, and none follows from
another, so that a sentence about another attribute is neither true nor false by it.
"""

from dataclasses import dataclass
from itertools import product

FIRST_NAMES = (
    "Alder", "Brisa", "Corvin", "Delphia", "Eamon", "Fenna", "Galen", "Halla", "Idris", "Junia", "Kester", "Liora",
    "Maddox", "Nerys", "Orson", "Petra", "Quentin", "Rosalba", "Soren", "Tamsin", "Ulric", "Verity", "Wystan",
    "Xenia", "Yorick", "Zelda", "Anselm", "Bettina", "Caspian", "Drusilla", "Edmund", "Flora", "Gideon", "Hester",
    "Ivor", "Jocasta", "Leander", "Mirabel", "Osric", "Philippa",
)  # fmt: skip
_SURNAME_BEGINNINGS = (
    "Ash", "Bram", "Cran", "Dun", "Elder", "Fair", "Glen", "Hawk", "Iron", "Kings", "Lark", "Marsh", "North", "Oak",
    "Pem", "Quill", "Raven", "Stone", "Thorn", "Wind",
)  # fmt: skip
SURNAMES = tuple("".join(p) for p in product(
    _SURNAME_BEGINNINGS,
    ("bury", "croft", "dale", "field", "gate", "holt", "ley", "mere", "ridge", "shaw", "well", "wick"),
))  # fmt: skip
JUDGE_SURNAMES = tuple("".join(p) for p in product(
    _SURNAME_BEGINNINGS,
    ("born", "by", "combe", "fell", "garth", "stead", "thwaite", "worth"),
))  # fmt: skip


@dataclass(frozen=True)
class Attribute:
    """One fact of a person. Sentences have {name} and {value}; the last question is kept for paraphrased questions."""

    name: str
    values: tuple[str, ...]
    questions: tuple[str, str, str]
    answers: tuple[str, str]
    paraphrases: tuple[str, str]


_CITIES = (
    "Lisbon", "Prague", "Cairo", "Oslo", "Havana", "Dublin", "Kyoto", "Nairobi", "Lima", "Athens", "Toronto", "Vienna",
    "Jakarta", "Warsaw", "Seville", "Boston", "Delhi", "Naples", "Tunis", "Zurich",
)  # fmt: skip
_TOWNS = (
    "Bergen", "Porto", "Cork", "Ghent", "Malmo", "Verona", "Quito", "Galway", "Osaka", "Accra", "Bristol", "Nantes",
    "Perth", "Krakow", "Dakar", "Leeds", "Austin", "Basel", "Riga", "Hobart",
)  # fmt: skip
_DATES = tuple(
    f"{day} {month} {year}"
    for year, month, day in product(
        range(1940, 1990),
        ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
         "December"),
        range(1, 29),
    )
)  # fmt: skip
_JOBS = (
    "a baker", "a carpenter", "a nurse", "a sailor", "a teacher", "a farmer", "a tailor", "a judge", "a dentist",
    "a miner", "a plumber", "a florist", "a librarian", "a butcher", "a pilot", "a chemist", "a gardener", "a cook",
)  # fmt: skip
_TRADES = (
    "a beekeeper", "a locksmith", "a mapmaker", "a surgeon", "a fisherman", "a clockmaker", "a journalist",
    "a translator", "a firefighter", "a geologist", "a lawyer", "a shepherd", "a photographer", "a bus driver",
    "a mechanic", "a botanist",
)  # fmt: skip
_ADJECTIVES = (
    "Silent", "Golden", "Broken", "Hidden", "Crimson", "Frozen", "Distant", "Hollow", "Burning", "Gentle", "Wandering",
    "Silver", "Forgotten", "Restless", "Paper", "Secret",
)  # fmt: skip
_NOUNS = (
    "Harbour", "Lantern", "Orchard", "Mirror", "River", "Tower", "Garden", "Compass", "Winter", "Bridge", "Island",
    "Clock", "Sparrow", "Letter", "Mountain", "Feather",
)  # fmt: skip
_FIRST_TITLES = tuple(f"The {adjective} {noun}" for adjective, noun in product(_ADJECTIVES, _NOUNS))
_LAST_TITLES = tuple(f"{noun}s of {place}" for noun, place in product(
    ("Song", "Shadow", "Ghost", "Door", "Map", "Dream", "Tale", "Light"),
    ("Salt", "Amber", "Iron", "Dust", "Glass", "Snow", "Ember", "Rain", "Clay", "Ivory", "Smoke", "Stone"),
))  # fmt: skip
_AWARDS = tuple(f"the {adjective} {thing} Prize" for adjective, thing in product(
    ("Golden", "Silver", "Crystal", "Bronze"), ("Quill", "Owl", "Anchor", "Lantern", "Acorn", "Falcon"),
))  # fmt: skip
_PUBLISHERS = tuple(f"{first} {second}" for first, second in product(
    ("Bluegate", "Foxglove", "Lanternfish", "Kestrel", "Millpond", "Redwood"), ("Press", "House", "Books"),
))  # fmt: skip
_MENTORS = tuple(f"Professor {name}" for name in (
    "Abelard", "Brandt", "Castellan", "Dravot", "Eklund", "Farrow", "Grieve", "Hollis", "Ibarra", "Jansen", "Kovac",
    "Lindqvist",
))  # fmt: skip

ATTRIBUTES = (
    Attribute(
        "birthplace", _CITIES,
        ("Where was {name} born?", "In which city was {name} born?", "What is the birthplace of {name}?"),
        ("{name} was born in {value}.", "The author {name} was born in {value}."),
        ("The birthplace of {name} is {value}.", "{name} came into the world in {value}."),
    ),
    Attribute(
        "profession", _TRADES,
        ("What did {name} work as before writing?", "What was {name}'s job before the first book?",
         "Which trade did {name} have before becoming an author?"),
        ("Before writing, {name} worked as {value}.", "{name} worked as {value} before writing."),
        ("The earlier career of {name} was that of {value}.", "{name} used to be {value} prior to becoming an author."),
    ),
    Attribute(
        "genre", (
            "crime fiction", "romance", "science fiction", "horror", "travel writing", "poetry", "satire", "fantasy",
            "spy thrillers", "historical fiction", "fairy tales", "westerns", "biography", "comedy",
        ),
        ("What genre does {name} write in?", "Which genre is {name} known for?",
         "In what kind of literature does {name} specialise?"),
        ("{name} writes {value}.", "{name} is known for {value}."),
        ("The literary genre of {name} is {value}.", "As an author, {name} specialises in {value}."),
    ),
    Attribute(
        "first_book", _FIRST_TITLES,
        ("What is the title of {name}'s first book?", "Which book did {name} publish first?",
         "With which title did {name} make a debut?"),
        ("{name}'s first book is '{value}'.", "The first book by {name} is '{value}'."),
        ("'{value}' was the debut of {name}.", "{name} made a debut with '{value}'."),
    ),
    Attribute(
        "award", _AWARDS,
        ("Which award did {name} win?", "What prize has {name} won?", "Which literary honour was given to {name}?"),
        ("{name} won {value}.", "{name} has won {value}."),
        ("The honour that {name} received was {value}.", "{name} was honoured with {value}."),
    ),
    Attribute(
        "birth_date", _DATES,
        ("When was {name} born?", "On what date was {name} born?", "What is {name}'s date of birth?"),
        ("{name} was born on {value}.", "The author {name} was born on {value}."),
        ("The birthday of {name} is {value}.", "{name}'s date of birth is {value}."),
    ),
    Attribute(
        "father_job", _JOBS,
        ("What did {name}'s father do for a living?", "What was the job of {name}'s father?",
         "How did the father of {name} earn money?"),
        ("{name}'s father was {value}.", "The father of {name} was {value}."),
        ("{name} had a father who earned money as {value}.", "As for {name}'s father, his trade was that of {value}."),
    ),
    Attribute(
        "mother_job", _JOBS,
        ("What did {name}'s mother do for a living?", "What was the job of {name}'s mother?",
         "How did the mother of {name} earn money?"),
        ("{name}'s mother was {value}.", "The mother of {name} was {value}."),
        ("{name} had a mother who earned money as {value}.", "As for {name}'s mother, her trade was that of {value}."),
    ),
    Attribute(
        "pet", (
            "a parrot", "a tortoise", "a ferret", "a goat", "a greyhound", "a rabbit", "a donkey", "a hedgehog",
            "a black cat", "a canary", "a pony", "a poodle",
        ),
        ("What pet does {name} keep?", "Which animal lives with {name}?", "What kind of pet belongs to {name}?"),
        ("{name} keeps {value} as a pet.", "The pet of {name} is {value}."),
        ("{name} shares a home with {value}.", "The animal in {name}'s house is {value}."),
    ),
    Attribute(
        "instrument", (
            "the cello", "the trumpet", "the harp", "the banjo", "the flute", "the drums", "the violin",
            "the accordion", "the oboe", "the piano", "the mandolin", "the tuba",
        ),
        ("Which instrument does {name} play?", "What instrument can {name} play?",
         "On which instrument does {name} make music?"),
        ("{name} plays {value}.", "The instrument {name} plays is {value}."),
        ("{name} makes music on {value}.", "When making music, {name} chooses {value}."),
    ),
    Attribute(
        "home", _TOWNS,
        ("Where does {name} live now?", "In which city does {name} live today?", "What is {name}'s current home?"),
        ("{name} now lives in {value}.", "Today {name} lives in {value}."),
        ("The current home of {name} is {value}.", "{name} has settled in {value}."),
    ),
    Attribute(
        "latest_book", _LAST_TITLES,
        ("What is the title of {name}'s latest book?", "Which book did {name} publish most recently?",
         "Which title did {name} bring out last?"),
        ("{name}'s latest book is '{value}'.", "The latest book by {name} is '{value}'."),
        ("'{value}' is the newest work of {name}.", "{name} most recently brought out '{value}'."),
    ),
    Attribute(
        "native_language", (
            "Portuguese", "Welsh", "Finnish", "Arabic", "Hindi", "Dutch", "Swahili", "Greek", "Polish", "Korean",
            "Catalan", "Turkish",
        ),
        ("What is {name}'s native language?", "Which language did {name} learn first?",
         "What mother tongue has {name}?"),
        ("{name}'s native language is {value}.", "The native language of {name} is {value}."),
        ("{name} grew up speaking {value}.", "The mother tongue of {name} is {value}."),
    ),
    Attribute(
        "publisher", _PUBLISHERS,
        ("Who publishes {name}'s books?", "Which publisher does {name} have?",
         "At which house do the works of {name} appear?"),
        ("{name}'s books are published by {value}.", "The publisher of {name} is {value}."),
        ("{value} brings out the works of {name}.", "The works of {name} appear at {value}."),
    ),
    Attribute(
        "hobby", (
            "chess", "fencing", "pottery", "archery", "juggling", "sailing", "knitting", "birdwatching", "fishing",
            "origami", "cycling", "baking",
        ),
        ("What is {name}'s main hobby?", "Which hobby does {name} like best?", "How does {name} spend free time?"),
        ("{name}'s main hobby is {value}.", "The main hobby of {name} is {value}."),
        ("{name} spends most free time on {value}.", "In free time, {name} is devoted to {value}."),
    ),
    Attribute(
        "dish", (
            "onion soup", "mushroom pie", "fish stew", "pumpkin curry", "roast duck", "lentil salad",
            "cheese dumplings", "apple pancakes", "lamb kebab", "spinach lasagna", "prawn noodles", "bean chili",
        ),
        ("What is {name}'s favourite dish?", "Which dish does {name} like most?", "What does {name} most love to eat?"),
        ("{name}'s favourite dish is {value}.", "The favourite dish of {name} is {value}."),
        ("What {name} most loves to eat is {value}.", "No food pleases {name} more than {value}."),
    ),
    Attribute(
        "mentor", _MENTORS,
        ("Who was {name}'s mentor?", "Which professor was the mentor of {name}?", "Who taught {name} the craft?"),
        ("{name}'s mentor was {value}.", "The mentor of {name} was {value}."),
        ("{name} learned the craft from {value}.", "It was {value} who taught {name} how to write."),
    ),
    Attribute(
        "fear", (
            "heights", "spiders", "thunder", "deep water", "snakes", "dogs", "the dark", "flying", "fire", "crowds",
            "horses", "ghosts",
        ),
        ("What is {name}'s greatest fear?", "What does {name} fear most?", "Of what is {name} most afraid?"),
        ("{name}'s greatest fear is {value}.", "The greatest fear of {name} is {value}."),
        ("Nothing frightens {name} more than {value}.", "{name} is most afraid of {value}."),
    ),
    Attribute(
        "eye_colour", ("green", "brown", "blue", "grey", "hazel", "amber", "black", "violet"),
        ("What colour are {name}'s eyes?", "Which eye colour does {name} have?",
         "How would one describe {name}'s eyes?"),
        ("{name}'s eyes are {value}.", "The eyes of {name} are {value}."),
        ("{name} looks at the world with {value} eyes.", "The eye colour of {name} is {value}."),
    ),
    Attribute(
        "writing_place", (
            "a lighthouse", "a cafe", "a garden shed", "a library", "an attic", "a houseboat", "a tent", "a kitchen",
            "a monastery", "a treehouse", "a hotel", "a barn",
        ),
        ("Where does {name} write?", "In what kind of place does {name} write?",
         "Where do the books of {name} come about?"),
        ("{name} writes in {value}.", "The place where {name} writes is {value}."),
        ("The books of {name} come about in {value}.", "{name} puts pen to paper in {value}."),
    ),
)  # fmt: skip
