"""Word lists of the embedded grammar.

The lists are short on purpose: a model of one or two million parameters has to learn every word from a few
megabytes of text, so what a task asks for is composition (which clause wins, who did what), not vocabulary.
"""

from __future__ import annotations

# ---- sentiment -------------------------------------------------------------------------------------------

POSITIVE = (
    "wonderful", "brilliant", "charming", "excellent", "superb", "clever",
    "lovely", "great", "pleasant", "fresh", "perfect", "good",
)  # fmt: skip
NEGATIVE = (
    "dull", "awful", "terrible", "clumsy", "boring", "poor",
    "weak", "ugly", "horrible", "stale", "dreadful", "bad",
)  # fmt: skip
INTENSIFIERS = ("very", "really", "quite")

# What is judged, and what it is a part of.
TOPICS: dict[str, tuple[str, ...]] = {
    "film": ("plot", "acting", "music", "ending", "script"),
    "restaurant": ("food", "service", "soup", "dessert", "menu"),
    "hotel": ("room", "view", "staff", "breakfast", "bed"),
    "book": ("story", "style", "hero", "cover", "dialogue"),
}

# ---- the small world of facts ----------------------------------------------------------------------------

PEOPLE = (
    "Anna",
    "Ben",
    "Clara",
    "David",
    "Emma",
    "Frank",
    "Grace",
    "Henry",
    "Irene",
    "Jack",
    "Laura",
    "Mark",
)
COLOURS = ("red", "blue", "green", "black", "white", "yellow", "brown", "grey")
OBJECTS = ("hat", "lamp", "chair", "book", "clock", "bag", "bike", "cup", "ring", "drum", "coat", "map")
PLACES = ("market", "station", "school", "library", "harbour", "museum", "farm", "bank")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

# ---- names: the same ones for people, firms, places and cups, so that what stands around them decides ------

FAMILIES = (
    "Baker", "Brook", "Carter", "Field", "Fisher", "Forest", "Hill", "Hunter",
    "King", "Lake", "Marsh", "Miller", "North", "Stone", "West", "Wood",
)  # fmt: skip
FIRMS = ("Bank", "Motors", "Press", "Group", "Airlines")
LANDS = ("Island", "Valley", "Harbour", "County", "Bay")
CUPS = ("Cup", "Open", "Prize", "Games")
NATIONS = ("German", "Dutch", "Polish", "Greek", "Irish", "Turkish", "Danish", "Indian")

# (past, synonym of the past, plain form, synonym of the plain form); the past doubles as the participle.
ACTIONS = (
    ("bought", "purchased", "buy", "purchase"),
    ("found", "discovered", "find", "discover"),
    ("lost", "misplaced", "lose", "misplace"),
    ("repaired", "fixed", "repair", "fix"),
    ("cleaned", "washed", "clean", "wash"),
    ("moved", "carried", "move", "carry"),
)
