"""Word problems of one or two steps with small numbers, and bare arithmetic."""

# A phrase stays on one line, however long.
# ruff: noqa: E501

import random
from collections.abc import Callable

WOMEN = (
    "Anna", "Maria", "Lena", "Emma", "Sofia", "Clara", "Nora", "Ella", "Ruth", "Alice", "Julia", "Grace", "Hanna",
    "Lily", "Sarah", "Rosa", "Amy", "Kate", "Zoe", "Mia", "Eva", "Nina", "Paula", "Jane", "Helen", "Lucy",
)  # fmt: skip
MEN = (
    "Ben", "Paul", "Omar", "David", "Leo", "Max", "Sam", "John", "Peter", "Adam", "Noah", "Felix", "Jack", "Luis",
    "Daniel", "Mark", "Oscar", "Simon", "Victor", "Henry", "Ali", "George", "Ivan", "Carlos", "Frank", "Eric",
)  # fmt: skip
# Small things that one person may own, buy, lose and give away.
THINGS = (
    "marbles", "stickers", "apples", "pencils", "cookies", "stamps", "coins", "shells", "cards", "books", "balloons",
    "oranges", "buttons", "pears", "beads", "crayons", "eggs", "stones", "candies", "plums", "lemons", "toy cars",
    "flowers", "muffins", "postcards", "nuts", "cherries", "ribbons",
)  # fmt: skip
BOXES = ("box", "bag", "basket", "jar", "tray", "packet", "crate", "bowl", "drawer", "sack")
TRADES = (
    ("farmer", "eggs"), ("gardener", "roses"), ("cook", "pies"), ("carpenter", "chairs"), ("tailor", "shirts"),
    ("potter", "cups"), ("fisherman", "fish"), ("printer", "posters"), ("painter", "pictures"),
    ("florist", "tulips"), ("shoemaker", "shoes"), ("toymaker", "dolls"), ("teacher", "tests"), ("baker", "cakes"),
)  # fmt: skip
GOODS = (
    "book", "pen", "ticket", "cup", "hat", "shirt", "lamp", "toy", "ball", "cake", "sandwich", "plant", "chair",
    "bag", "map", "scarf", "kite", "puzzle", "notebook", "plate",
)  # fmt: skip
MONEY = ("dollars", "euros", "coins")
VEHICLES = (("car", "drives"), ("bus", "drives"), ("train", "travels"), ("boat", "sails"), ("truck", "drives"))
ACTIONS = (
    ("reads", "read", "pages"), ("runs", "run", "miles"), ("paints", "paint", "pictures"),
    ("writes", "write", "letters"), ("bakes", "bake", "rolls"), ("learns", "learn", "words"),
    ("plants", "plant", "trees"), ("solves", "solve", "puzzles"), ("swims", "swim", "laps"),
    ("walks", "walk", "miles"), ("folds", "fold", "napkins"), ("washes", "wash", "plates"),
)  # fmt: skip
GROUPS = (
    ("classroom", "rows", "row", "desks"), ("theater", "rows", "row", "seats"), ("garden", "rows", "row", "bushes"),
    ("library", "shelves", "shelf", "books"), ("parking lot", "lines", "line", "cars"), ("hotel", "floors", "floor", "rooms"),
    ("street", "blocks", "block", "houses"), ("school", "classes", "class", "children"), ("zoo", "cages", "cage", "birds"),
    ("bus station", "buses", "bus", "passengers"), ("restaurant", "tables", "table", "guests"),
)  # fmt: skip

Problem = tuple[str, list[str], int]

# Products up to this number squared are known by heart.
TABLE_MAX = 12


def person(random_: random.Random) -> tuple[str, str, str]:
    """A name with "she" and "her", or "he" and "his"."""
    if random_.random() < 0.5:
        return random_.choice(WOMEN), "She", "her"
    return random_.choice(MEN), "He", "his"


def summands(random_: random.Random) -> tuple[int, int]:
    """Two numbers from 2 whose sum is mostly at most 20, and never above 100."""
    total = random_.randrange(4, random_.choices((21, 31, 101), (8, 1, 1))[0])
    a = random_.randrange(2, total - 1)
    return a, total - a


def known_factors(random_: random.Random) -> tuple[int, int]:
    """Two numbers of the multiplication table."""
    largest = 10 if random_.random() < 0.92 else TABLE_MAX
    return random_.randrange(2, largest + 1), random_.randrange(2, largest + 1)


def factors(random_: random.Random) -> tuple[int, int]:
    """Two numbers that `product` can multiply: mostly of the table, at times one digit and two."""
    if random_.random() < 0.92:
        return known_factors(random_)
    a, b = random_.randrange(2, 10), random_.choice((*range(13, 21), 20, 30, 40, 50, 60, 80))
    return (a, b) if random_.random() < 0.5 else (b, a)


def product(a: int, b: int) -> str:
    """The product as an equation: from the table, or through tens and ones."""
    tens, ones = divmod(max(a, b), 10)
    if max(a, b) <= TABLE_MAX or ones == 0:
        return f"{a} * {b} = {a * b}"
    return f"{a} * {b} = {min(a, b) * tens * 10} + {min(a, b) * ones} = {a * b}"


def plurals(word: str) -> str:
    return word + ("es" if word.endswith(("x", "s", "ch", "sh")) else "s")


def gain(random_: random.Random) -> Problem:
    (name, she, _), thing = person(random_), random_.choice(THINGS)
    a, b = summands(random_)
    how = random_.choice(("buys", "finds", "gets", "wins", "collects"))
    ask = random_.choice((
        f"How many {thing} does {name} have now?", f"How many {thing} does {she.lower()} have in total?",
        f"How many {thing} are there altogether?",
    ))  # fmt: skip
    return f"{name} has {a} {thing}. {she} {how} {b} more. {ask}", [f"{name} has {a} + {b} = {a + b} {thing}."], a + b


def loss(random_: random.Random) -> Problem:
    (name, she, her), thing = person(random_), random_.choice(THINGS)
    b, left = summands(random_)
    a = b + left
    how = random_.choice((
        f"loses {b} of them", f"gives {b} of them to a friend", f"sells {b} of them", f"gives {b} {thing} to {her} sister",
        f"gives away {b} {thing}",
    ))  # fmt: skip
    ask = random_.choice((
        f"How many {thing} are left?", f"How many {thing} does {name} have left?",
        f"How many {thing} does {she.lower()} still have?",
    ))  # fmt: skip
    return f"{name} has {a} {thing}. {she} {how}. {ask}", [f"{name} has {a} - {b} = {a - b} {thing} left."], a - b


def boxes(random_: random.Random) -> Problem:
    (name, she, _), thing, box = person(random_), random_.choice(THINGS), random_.choice(BOXES)
    a, b = factors(random_)
    text = random_.choice((
        f"{name} has {a} {plurals(box)} with {b} {thing} in each {box}.",
        f"{name} puts {b} {thing} in each {box}. {she} fills {a} {plurals(box)}.",
        f"There are {b} {thing} in one {box}. {name} buys {a} {plurals(box)}.",
        f"Each {box} holds {b} {thing}, and {name} has {a} {plurals(box)}.",
    ))  # fmt: skip
    ask = random_.choice((f"How many {thing} does {name} have?", f"How many {thing} are there in total?"))
    return f"{text} {ask}", [f"{name} has {product(a, b)} {thing}."], a * b


def trade(random_: random.Random) -> Problem:
    worker, thing = random_.choice(TRADES)
    box = random_.choice(BOXES)
    a, b = factors(random_)
    does, do = random_.choice((("sells", "sell"), ("packs", "pack"), ("prepares", "prepare"), ("carries", "carry")))
    return (
        f"A {worker} puts {a} {thing} in each {box} and {does} {b} {plurals(box)}. How many {thing} does the {worker} {do}?",
        [f"Each {box} holds {a} {thing}, so the {worker} {does} {product(a, b)} {thing}."],
        a * b,
    )


def groups(random_: random.Random) -> Problem:
    place, rows, row, thing = random_.choice(GROUPS)
    a, b = factors(random_)
    text = random_.choice((
        f"A {place} has {a} {rows} with {b} {thing} each.", f"There are {a} {rows} in a {place}. Each {row} has {b} {thing}.",
    ))  # fmt: skip
    ask = random_.choice((f"How many {thing} are there?", f"How many {thing} does the {place} have in total?"))
    if random_.random() < 0.5:
        return f"{text} {ask}", [f"There are {product(a, b)} {thing} in the {place}."], a * b
    gone = random_.randrange(2, min(a * b - 1, 20))
    left = a * b - gone
    return (
        f"{text} If {gone} of the {thing} {random_.choice(('are gone', 'are taken away'))}, how many {thing} are left?",
        [f"There are {product(a, b)} {thing} in the {place}.", f"So {a * b} - {gone} = {left} {thing} are left."],
        left,
    )


def share(random_: random.Random) -> Problem:
    (name, she, _), thing = person(random_), random_.choice(THINGS)
    a, b = known_factors(random_)
    total = a * b
    text, step = random_.choice((
        (f"{name} shares {total} {thing} equally among {a} friends. How many {thing} does each friend get?",
         f"Each friend gets {total} / {a} = {b} {thing}."),
        (f"{name} has {total} {thing}. {she} puts them into {a} bags with the same number in each. How many {thing} are in each bag?",
         f"Each bag has {total} / {a} = {b} {thing}."),
        (f"{a} children share {total} {thing} equally. How many {thing} does each child get?",
         f"Each child gets {total} / {a} = {b} {thing}."),
    ))  # fmt: skip
    return text, [step], b


def price(random_: random.Random) -> Problem:
    (name, she, _), good, money = person(random_), random_.choice(GOODS), random_.choice(MONEY)
    a, b = factors(random_)
    text = random_.choice((
        f"One {good} costs {b} {money}. How many {money} do {a} {plurals(good)} cost?",
        f"{name} buys {a} {plurals(good)} for {b} {money} each. How many {money} does {she.lower()} spend?",
        f"A {good} costs {b} {money}. {name} buys {a} of them. How many {money} does {name} pay?",
    ))  # fmt: skip
    return text, [f"{a} {plurals(good)} cost {product(a, b)} {money}."], a * b


def change(random_: random.Random) -> Problem:
    (name, she, _), good, money = person(random_), random_.choice(GOODS), random_.choice(MONEY)
    a, b = random_.randrange(2, 7), random_.randrange(2, 13)
    purse = a * b + random_.randrange(2, 13)
    text = random_.choice((
        f"{name} has {purse} {money}. {she} buys {a} {plurals(good)} that cost {b} {money} each.",
        f"{name} has {purse} {money} and buys {a} {plurals(good)} at {b} {money} each.",
        f"A {good} costs {b} {money}. {name} has {purse} {money} and buys {a} {plurals(good)}.",
    ))  # fmt: skip
    ask = random_.choice((f"How many {money} are left?", f"How many {money} does {name} have left?"))
    steps = [
        f"The {plurals(good)} cost {product(a, b)} {money}.",
        f"{name} has {purse} - {a * b} = {purse - a * b} {money} left.",
    ]
    return f"{text} {ask}", steps, purse - a * b


def speed(random_: random.Random) -> Problem:
    (vehicle, moves), unit = random_.choice(VEHICLES), random_.choice(("miles", "kilometers"))
    hours = random_.randrange(2, 7)
    pace = random_.choice((*range(5, 26), 30, 40, 50, 60, 70, 80, 90))
    if random_.random() < 0.5:
        text = random_.choice((
            f"A {vehicle} {moves} {pace} {unit} per hour. How many {unit} does it go in {hours} hours?",
            f"A {vehicle} goes {pace} {unit} every hour. How far does it go in {hours} hours?",
        ))  # fmt: skip
        return text, [f"In {hours} hours, the {vehicle} goes {product(pace, hours)} {unit}."], pace * hours
    pace = random_.choice((*range(2, TABLE_MAX + 1), 20, 30, 40, 50, 60))
    text = f"A {vehicle} {moves} {pace * hours} {unit} in {hours} hours at the same speed. How many {unit} does it go in one hour?"
    return text, [f"In one hour, the {vehicle} goes {pace * hours} / {hours} = {pace} {unit}."], pace


def daily(random_: random.Random) -> Problem:
    (name, she, _), (does, do, thing) = person(random_), random_.choice(ACTIONS)
    a, b = known_factors(random_)
    span = random_.choice(("day", "week", "morning", "evening"))
    ask = f"How many {thing} does {random_.choice((name, she.lower()))} {do} in {a} {span}s?"
    text = random_.choice((f"{name} {does} {b} {thing} every {span}.", f"Every {span}, {name} {does} {b} {thing}."))
    return f"{text} {ask}", [f"In {a} {span}s, {name} {does} {product(b, a)} {thing}."], a * b


def two_days(random_: random.Random) -> Problem:
    (name, she, _), (does, do, thing) = person(random_), random_.choice(ACTIONS)
    a, k = random_.randrange(2, 11), random_.choice((2, 2, 3, 4))
    times = {2: "twice", 3: "three times", 4: "four times"}[k]
    d1, d2 = random_.choice(
        (("Monday", "Tuesday"), ("Saturday", "Sunday"), ("the first day", "the second day"), ("Friday", "Saturday"))
    )
    text = f"{name} {does} {a} {thing} on {d1} and {times} as many on {d2}. How many {thing} does {she.lower()} {do} in total?"
    steps = [
        f"On {d2}, {name} {does} {product(k, a)} {thing}.",
        f"In total, {name} {does} {a} + {k * a} = {a + k * a} {thing}.",
    ]
    return text, steps, a + k * a


def twice(random_: random.Random) -> Problem:
    (name, _, _), (other, _, _), thing = person(random_), person(random_), random_.choice(THINGS)
    while other == name:
        other, _, _ = person(random_)
    a, k = random_.randrange(2, 13), random_.choice((2, 2, 3, 4))
    times = {2: "twice", 3: "three times", 4: "four times"}[k]
    text = f"{name} has {a} {thing}. {other} has {times} as many."
    first = f"{other} has {product(k, a)} {thing}."
    if random_.random() < 0.35:
        return f"{text} How many {thing} does {other} have?", [first], k * a
    if random_.random() < 0.4 and (a + k * a) % 2 == 0:
        half = (a + k * a) // 2
        steps = [
            first,
            f"Together they have {a} + {k * a} = {a + k * a} {thing}.",
            f"Each gets {a + k * a} / 2 = {half} {thing}.",
        ]
        return f"{text} They share all the {thing} equally. How many {thing} does each get?", steps, half
    ask = random_.choice(
        (f"How many {thing} do they have together?", f"How many {thing} do {name} and {other} have in total?")
    )
    return f"{text} {ask}", [first, f"Together they have {a} + {k * a} = {a + k * a} {thing}."], a + k * a


def compare(random_: random.Random) -> Problem:
    (name, _, _), (other, _, _), thing = person(random_), person(random_), random_.choice(THINGS)
    while other == name:
        other, _, _ = person(random_)
    a, b = summands(random_)
    kind = random_.randrange(3)
    if kind == 0:
        text = f"{name} has {a + b} {thing} and {other} has {a} {thing}. How many more {thing} does {name} have than {other}?"
        return text, [f"{name} has {a + b} - {a} = {b} more {thing} than {other}."], b
    if kind == 1:
        text = f"{name} has {a} {thing}. {other} has {b} more than {name}. How many {thing} do they have together?"
        steps = [
            f"{other} has {a} + {b} = {a + b} {thing}.",
            f"Together they have {a} + {a + b} = {2 * a + b} {thing}.",
        ]
        return text, steps, 2 * a + b
    text = f"{name} has {a + b} {thing}. {other} has {b} fewer than {name}. How many {thing} does {other} have?"
    return text, [f"{other} has {a + b} - {b} = {a} {thing}."], a


def come_and_go(random_: random.Random) -> Problem:
    place, who = random_.choice(
        (
            ("bus", "people"),
            ("train", "people"),
            ("park", "children"),
            ("room", "guests"),
            ("pond", "ducks"),
            ("tree", "birds"),
            ("field", "sheep"),
            ("shop", "customers"),
        )
    )
    at = "in the" if place in ("park", "room", "field", "shop", "tree") else "on the"
    b, rest = summands(random_)
    a, c = b + rest, random_.randrange(2, 13)
    text = f"There are {a} {who} {at} {place}. Then {b} {who} leave and {c} more come. How many {who} are {at} {place} now?"
    steps = [
        f"After {b} {who} leave, there are {a} - {b} = {a - b} {who}.",
        f"Then there are {a - b} + {c} = {a - b + c} {who} {at} {place}.",
    ]
    return text, steps, a - b + c


def packs_and_more(random_: random.Random) -> Problem:
    (name, she, her), thing, box = person(random_), random_.choice(THINGS), random_.choice(BOXES)
    a, b = factors(random_)
    c = random_.randrange(2, 13)
    first = f"The {plurals(box)} hold {product(a, b)} {thing}."
    if random_.random() < 0.5 or c >= a * b - 1:
        text = f"{name} has {a} {plurals(box)} of {b} {thing} and {c} more {thing} in {her} hand. How many {thing} does {she.lower()} have in all?"
        return text, [first, f"In all, {name} has {a * b} + {c} = {a * b + c} {thing}."], a * b + c
    how, past = random_.choice((("gives", "away"), ("throws", "away"), ("puts", "aside")))
    text = f"{name} has {a} {plurals(box)} with {b} {thing} in each. {she} {how} {past} {c} of the {thing}. How many {thing} are left?"
    return text, [first, f"After that, {a * b} - {c} = {a * b - c} {thing} are left."], a * b - c


def teams(random_: random.Random) -> Problem:
    whole, members = random_.choice(
        (("class", "children"), ("club", "members"), ("school", "pupils"), ("camp", "campers"), ("choir", "singers"))
    )
    thing = random_.choice(("balls", "maps", "ropes", "books", "sheets of paper", "brushes", "tents", "lamps"))
    size, n = random_.randrange(2, 9), random_.randrange(2, 11)
    each = random_.randrange(2, 9)
    unit = random_.choice(("group", "team"))
    first = f"There are {size * n} / {size} = {n} {unit}s."
    text = f"A {whole} of {size * n} {members} makes {unit}s of {size}."
    if random_.random() < 0.3:
        return f"{text} How many {unit}s are there?", [first], n
    return (
        f"{text} Each {unit} gets {each} {thing}. How many {thing} are needed?",
        [first, f"They need {product(n, each)} {thing}."],
        n * each,
    )


def ages(random_: random.Random) -> Problem:
    (name, she, her) = person(random_)
    a, b = summands(random_)
    kin = random_.choice(("brother", "sister", "cousin", "mother", "father", "aunt", "uncle"))
    kind = random_.randrange(3)
    if kind == 0:
        return (
            f"{name} is {a} years old. How old will {she.lower()} be in {b} years?",
            [f"In {b} years, {name} will be {a} + {b} = {a + b} years old."],
            a + b,
        )
    if kind == 1:
        return (
            f"{name} is {a} years old. {her.capitalize()} {kin} is {b} years older. How old is {her} {kin}?",
            [f"The {kin} is {a} + {b} = {a + b} years old."],
            a + b,
        )
    return (
        f"{name} is {a + b} years old. How old was {she.lower()} {b} years ago?",
        [f"{b} years ago, {name} was {a + b} - {b} = {a} years old."],
        a,
    )


def saving(random_: random.Random) -> Problem:
    (name, she, _), money, good = person(random_), random_.choice(MONEY), random_.choice(GOODS)
    week, n = known_factors(random_)
    if random_.random() < 0.5:
        text = f"A {good} costs {week * n} {money}. {name} saves {week} {money} every week. How many weeks does {she.lower()} need to buy the {good}?"
        return text, [f"{name} needs {week * n} / {week} = {n} weeks."], n
    spent = random_.randrange(2, min(week * n - 1, 20))
    text = f"{name} saves {week} {money} every week for {n} weeks. Then {she.lower()} spends {spent} {money} on a {good}. How many {money} are left?"
    steps = [
        f"{name} saves {product(week, n)} {money}.",
        f"Then {week * n} - {spent} = {week * n - spent} {money} are left.",
    ]
    return text, steps, week * n - spent


def two_goods(random_: random.Random) -> Problem:
    (name, she, _), money = person(random_), random_.choice(MONEY)
    one, two = random_.sample(GOODS, 2)
    a, b = summands(random_)
    if random_.random() < 0.5:
        text = f"{name} buys a {one} for {a} {money} and a {two} for {b} {money}. How many {money} does {she.lower()} spend?"
        return text, [f"{name} spends {a} + {b} = {a + b} {money}."], a + b
    n, m = random_.randrange(2, 5), random_.randrange(2, 5)
    a, b = random_.randrange(2, 13), random_.randrange(2, 13)
    text = f"{name} buys {n} {plurals(one)} for {a} {money} each and {m} {plurals(two)} for {b} {money} each. How many {money} does {she.lower()} pay in total?"
    steps = [
        f"The {plurals(one)} cost {product(n, a)} {money}.",
        f"The {plurals(two)} cost {product(m, b)} {money}.",
        f"In total, {name} pays {n * a} + {m * b} = {n * a + m * b} {money}.",
    ]
    return text, steps, n * a + m * b


def mine(random_: random.Random) -> Problem:
    """What a person asks about things of their own, or about animals that go away."""
    thing = random_.choice(THINGS)
    b, rest = summands(random_)
    a, kind = b + rest, random_.randrange(4)
    if kind == 0:
        text = (
            f"If I have {a} {thing} and {random_.choice(('lose', 'give away', 'sell', 'use'))} {b}, how many are left?"
        )
        return text, [f"You have {a} - {b} = {a - b} {thing} left."], a - b
    if kind == 1:
        text = (
            f"I have {rest} {thing} and {random_.choice(('buy', 'find', 'get'))} {b} more. How many {thing} do I have?"
        )
        return text, [f"You have {rest} + {b} = {a} {thing}."], a
    if kind == 2:
        place, who, go = random_.choice((("on the roof", "birds", "fly away"), ("in the pond", "ducks", "swim away"),
            ("in the field", "horses", "run away"), ("on the flower", "bees", "fly away"), ("in the room", "people", "leave")))  # fmt: skip
        text = f"There are {a} {who} {place}. {b} of them {go}. How many {who} are left?"
        return text, [f"There are {a} - {b} = {a - b} {who} left."], a - b
    one, two = random_.sample(("red", "blue", "green", "yellow", "white"), 2)
    text = f"A {random_.choice(BOXES)} has {rest} {one} and {b} {two} {thing}. How many {thing} are there in total?"
    return text, [f"There are {rest} + {b} = {a} {thing} in total."], a


def bare_numbers(random_: random.Random) -> tuple[int, str, int, str, int]:
    """One operation: the numbers, its equation and its value."""
    kind = random_.choice("++--**/")
    a, b = summands(random_)
    # Ones too, which the problems leave out.
    a = 1 if random_.random() < 0.05 else a
    if kind == "+":
        return a, kind, b, f"{a} + {b} = {a + b}", a + b
    if kind == "-":
        return a + b, kind, b, f"{a + b} - {b} = {a}", a
    a, b = factors(random_) if kind == "*" else known_factors(random_)
    if kind == "*":
        return a, kind, b, product(a, b), a * b
    return a * b, kind, a, f"{a * b} / {a} = {b}", b


def bare(random_: random.Random) -> Problem:
    a, kind, b, equation, value = bare_numbers(random_)
    word = {"+": "plus", "-": "minus", "*": "times", "/": "divided by"}[kind]
    text = random_.choice((
        f"What is {a} {kind} {b}?", f"What is {a} {word} {b}?", f"Calculate {a} {kind} {b}.", f"{a} {kind} {b}",
        f"How much is {a} {word} {b}?", f"Compute {a} {kind} {b}.", f"{a} {kind} {b} = ?", f"What is {a} {kind} {b}",
    ))  # fmt: skip
    return text, [equation], value


def several(random_: random.Random) -> tuple[str, str]:
    """A list of operations, one equation a line."""
    rows = [bare_numbers(random_) for _ in range(random_.randrange(3, 9))]
    asked = [f"{a} {kind} {b}" for a, kind, b, _, _ in rows]
    prompt = random_.choice((
        f"Compute {', '.join(asked[:-1])} and {asked[-1]}.", "Calculate:\n" + "\n".join(asked),
        "Solve these:\n" + "\n".join(f"{line} = ?" for line in asked),
    ))  # fmt: skip
    return prompt, "\n".join(equation for *_, equation, _ in rows)


def row_of_table(random_: random.Random) -> tuple[str, str]:
    """Part of the multiplication table."""
    a = random_.randrange(2, TABLE_MAX + 1)
    low = random_.choice((1, 1, 1, random_.randrange(1, 7)))
    high = random_.choice((10, TABLE_MAX, random_.randrange(low + 3, TABLE_MAX + 1)))
    prompt = random_.choice((
        f"Write the multiplication table of {a} from {low} to {high}.", f"Multiply {a} by the numbers from {low} to {high}.",
        f"What are the multiples of {a} from {low} to {high}?", f"Show me the {a} times table from {low} to {high}.",
    ))  # fmt: skip
    if (low, high) == (1, 10):
        prompt = random_.choice((prompt, f"Show me the {a} times table.", f"Write the multiplication table of {a}."))
    return prompt, "\n".join(f"{a} * {b} = {a * b}" for b in range(low, high + 1))


TEMPLATES: tuple[Callable[[random.Random], Problem], ...] = (
    gain, loss, boxes, trade, groups, share, price, change, speed, daily, two_days, twice, compare, come_and_go,
    packs_and_more, teams, ages, saving, two_goods, boxes, trade, change, mine, mine, gain, loss, price, bare, bare, bare,
    bare, bare,
)  # fmt: skip


def pair(random_: random.Random) -> tuple[str, str]:
    """Mostly a problem, and its steps with the result on a line of its own; at times a list of equations."""
    kind = random_.random()
    if kind < 0.16:
        return (several if kind < 0.13 else row_of_table)(random_)
    prompt, steps, result = random_.choice(TEMPLATES)(random_)
    return prompt, "\n".join(steps) + f"\n#### {result}"
