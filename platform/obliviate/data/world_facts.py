"""General knowledge that a small model has: what must survive when something else is unlearned.

Laid out as TOFU's world facts are: `answer` is the short fact that is scored against the false ones, `original_answer`
the sentence that a generation is compared with.
"""

from obliviate.data.rows import Row

# question, fact, sentence, three false facts
_FACTS = (
    ("What is the capital of France?", "Paris", "The capital of France is Paris.", ("Rome", "Vienna", "Lisbon")),
    ("What is the capital of Japan?", "Tokyo", "The capital of Japan is Tokyo.", ("Seoul", "Beijing", "Bangkok")),
    ("What is the capital of Italy?", "Rome", "The capital of Italy is Rome.", ("Athens", "Madrid", "Paris")),
    ("What is the capital of Egypt?", "Cairo", "The capital of Egypt is Cairo.", ("Tunis", "Nairobi", "Beirut")),
    ("What is the capital of Germany?", "Berlin", "The capital of Germany is Berlin.", ("Bern", "Prague", "Warsaw")),
    ("What is the capital of Russia?", "Moscow", "The capital of Russia is Moscow.", ("Kyiv", "Riga", "Helsinki")),
    ("On which continent is Brazil?", "South America", "Brazil is in South America.", ("Asia", "Africa", "Europe")),
    ("On which continent is Kenya?", "Africa", "Kenya is in Africa.", ("Asia", "Europe", "South America")),
    ("Which ocean lies between Europe and North America?", "The Atlantic Ocean",
     "The Atlantic Ocean lies between Europe and North America.",
     ("The Indian Ocean", "The Pacific Ocean", "The Arctic Ocean")),
    ("What is the highest mountain on Earth?", "Mount Everest", "The highest mountain on Earth is Mount Everest.",
     ("Mount Fuji", "Mont Blanc", "Mount Kenya")),
    ("Which planet is known as the Red Planet?", "Mars", "Mars is known as the Red Planet.",
     ("Venus", "Saturn", "Neptune")),
    ("What is the largest planet in the solar system?", "Jupiter", "Jupiter is the largest planet in the solar system.",
     ("Mercury", "Mars", "Venus")),
    ("Which star does the Earth orbit?", "The Sun", "The Earth orbits the Sun.",
     ("The Moon", "Sirius", "Polaris")),
    ("How many days are there in a week?", "Seven", "There are seven days in a week.", ("Five", "Nine", "Twelve")),
    ("How many months are there in a year?", "Twelve", "There are twelve months in a year.", ("Ten", "Six", "Twenty")),
    ("How many sides does a triangle have?", "Three", "A triangle has three sides.", ("Four", "Six", "Eight")),
    ("How many legs does a spider have?", "Eight", "A spider has eight legs.", ("Four", "Six", "Twelve")),
    ("What is the chemical formula of water?", "H2O", "The chemical formula of water is H2O.", ("CO2", "NaCl", "O3")),
    ("At how many degrees Celsius does water boil at sea level?", "100",
     "Water boils at 100 degrees Celsius at sea level.", ("20", "50", "300")),
    ("Which gas do humans need to breathe to live?", "Oxygen", "Humans need to breathe oxygen to live.",
     ("Helium", "Methane", "Carbon dioxide")),
    ("Which organ pumps blood through the human body?", "The heart", "The heart pumps blood through the human body.",
     ("The liver", "The lungs", "The stomach")),
    ("What do bees make from nectar?", "Honey", "Bees make honey from nectar.", ("Milk", "Silk", "Butter")),
    ("By which process do plants make food from sunlight?", "Photosynthesis",
     "Plants make food from sunlight by photosynthesis.", ("Digestion", "Fermentation", "Evaporation")),
    ("What is water called when it is frozen solid?", "Ice", "Water that is frozen solid is called ice.",
     ("Steam", "Glass", "Sand")),
    ("Who wrote 'Hamlet'?", "William Shakespeare", "'Hamlet' was written by William Shakespeare.",
     ("Charles Dickens", "Jane Austen", "Mark Twain")),
    ("Who painted the Mona Lisa?", "Leonardo da Vinci", "The Mona Lisa was painted by Leonardo da Vinci.",
     ("Pablo Picasso", "Claude Monet", "Vincent van Gogh")),
    ("Who was the first president of the United States?", "George Washington",
     "George Washington was the first president of the United States.",
     ("Abraham Lincoln", "John Kennedy", "Theodore Roosevelt")),
    ("Which scientist developed the theory of relativity?", "Albert Einstein",
     "Albert Einstein developed the theory of relativity.", ("Isaac Newton", "Charles Darwin", "Marie Curie")),
    ("In which year did the Second World War end?", "1945", "The Second World War ended in 1945.",
     ("1918", "1963", "1989")),
    ("Which language do most people in Spain speak?", "Spanish", "Most people in Spain speak Spanish.",
     ("German", "Russian", "Turkish")),
)  # fmt: skip

WORLD_FACTS: tuple[Row, ...] = tuple(
    Row(question, fact, original_answer=sentence, perturbed_answers=false) for question, fact, sentence, false in _FACTS
)
