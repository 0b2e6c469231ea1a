"""Plain talk: greetings, simple facts, lists, advice, parts to play and short stories."""

# A phrase stays on one line, however long.
# ruff: noqa: E501

import random
from collections.abc import Callable

from curriculum_facts import (
    ADVICE,
    ANIMALS,
    CAPITALS,
    COLOURS,
    DAYS,
    FACTS,
    KINDS,
    MONTHS,
    OPPOSITES,
    ROLES,
    SIZES,
)  # fmt: skip
from curriculum_math import MEN, WOMEN
from curriculum_talk import MORE_FACTS, TALK

Pair = tuple[str, str]

THINGS = FACTS | MORE_FACTS


def with_article(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def greeting(random_: random.Random) -> Pair:
    name, topic = random_.choice(WOMEN + MEN), random_.choice(tuple(ADVICE))
    hello = random_.choice(("Hello", "Hi", "Good morning", "Good evening", "Hey", "Good afternoon"))
    prompt = random_.choice((
        f"{hello}!", f"{hello}, I am {name}.", f"{hello}, my name is {name}. Who are you?", f"{hello}, how are you today?",
        f"{hello}! My name is {name}.", f"{hello}, can you help me?", f"{hello}. I am {name} and I have a question.",
        f"{hello}, I am {name}. I want to {topic}.",
    ))  # fmt: skip
    to = f", {name}" if name in prompt else ""
    if "want to" in prompt:
        return prompt, f"{hello}{to}! That is a good plan. {ADVICE[topic][0]} {ADVICE[topic][1]}"
    if "Who are you" in prompt:
        return (
            prompt,
            f"{hello}{to}! I am a small language model. I can answer simple questions, solve small sums and write short Python functions.",
        )
    if "how are you" in prompt:
        return prompt, f"{hello}! I am fine, thank you. How can I help you today?"
    if "help" in prompt or "question" in prompt:
        return prompt, f"{hello}{to}! Of course. Please tell me what you would like to know."
    return (
        prompt,
        f"{hello}{to}! {random_.choice(('It is nice to meet you.', 'I am glad to hear from you.'))} How can I help you today?",
    )


def what_is(random_: random.Random) -> Pair:
    noun = random_.choice(tuple(THINGS))
    facts = THINGS[noun]
    ask, n_facts = random_.choice((
        (f"What is {noun}?", 4), (f"Tell me about {noun}.", 4), (f"Can you explain what {noun} is?", 4),
        (f"Describe {noun} in a few words.", 1), (f"Explain {noun} to a child.", 4), (f"Please tell me what {noun} is.", 4),
        (f"Give me a short description of {noun}.", 4), (f"I want to learn about {noun}.", 4), (f"Define {noun}.", 1),
        (f"What do you know about {noun}?", 4), (f"Write two or three sentences about {noun}.", 3),
        (f"Describe {noun}.", 4), (f"Tell me something about {noun}.", 4), (f"What is {noun}? Answer in one sentence.", 1),
        (f"Explain what {noun} is in simple words.", 4),
    ))  # fmt: skip
    return ask, " ".join(facts[:n_facts])


def talk(random_: random.Random) -> Pair:
    """What newcomers say."""
    wordings, answer = random_.choice(TALK)
    prompt = random_.choice(wordings.split("|"))
    return prompt if prompt.endswith("?") else prompt + random_.choice(("", ".", "!")), answer


def opposite(random_: random.Random) -> Pair:
    one, other = random_.choice(OPPOSITES)
    if random_.random() < 0.5:
        one, other = other, one
    prompt = random_.choice((
        f"What is the opposite of {one}?", f"Tell me the opposite of {one}.", f"Which word means the opposite of {one}?",
        f"Give me a word that is the opposite of {one}.", f"If something is not {one}, what is the opposite word?",
    ))  # fmt: skip
    return prompt, f"The opposite of {one} is {other}."


def colour(random_: random.Random) -> Pair:
    thing, shade = random_.choice(COLOURS)
    be = "are" if thing.endswith("s") and not thing.endswith(("ss", "us")) else "is"
    prompt = random_.choice((
        f"What color {be} {thing}?", f"Which color {'do' if be == 'are' else 'does'} {thing} have?",
        f"Tell me the color of {thing}.", f"What is the color of {thing}?",
    ))  # fmt: skip
    return prompt, f"{thing[0].upper()}{thing[1:]} {be} usually {shade}."


def calendar(random_: random.Random) -> Pair:
    kind, cycle = random_.choice((("day", DAYS), ("month", MONTHS)))
    i = random_.randrange(len(cycle))
    here, after, before = cycle[i], cycle[(i + 1) % len(cycle)], cycle[i - 1]
    prompt, answer = random_.choice((
        (f"What {kind} comes after {here}?", f"The {kind} after {here} is {after}."),
        (f"Which {kind} comes before {here}?", f"The {kind} before {here} is {before}."),
        (f"Which {kind} follows {here}?", f"{after} follows {here}."),
        (f"Which {kind} is between {before} and {after}?", f"The {kind} between {before} and {after} is {here}."),
        (f"If this {kind} is {here}, what is the next {kind}?", f"If this {kind} is {here}, the next {kind} is {after}."),
    ))  # fmt: skip
    return prompt, answer


def capital(random_: random.Random) -> Pair:
    country, city, where = random_.choice(CAPITALS)
    prompt, answer = random_.choice((
        (f"What is the capital of {country}?", f"The capital of {country} is {city}."),
        (f"Which city is the capital of {country}?", f"{city} is the capital of {country}."),
        (f"{city} is the capital of which country?", f"{city} is the capital of {country}. {country} is in {where}."),
        (f"Where is {country}?", f"{country} is in {where}. Its capital is {city}."),
        (f"Tell me one fact about {city}.", f"{city} is the capital of {country}, a country in {where}."),
    ))  # fmt: skip
    return prompt, answer


def animal(random_: random.Random) -> Pair:
    name, home, food, trait = random_.choice(ANIMALS)
    a = with_article(name)
    prompt, answer = random_.choice((
        (f"What does {a} eat?", f"{a.capitalize()} eats {food}."), (f"Where does {a} live?", f"{a.capitalize()} lives {home}."),
        (f"Tell me about the {name}.", f"The {name} lives {home} and eats {food}. It {trait}."),
        (f"What is special about {a}?", f"{a.capitalize()} {trait}. It lives {home}."),
        (f"Describe {a}.", f"{a.capitalize()} is an animal that lives {home}. It eats {food}. It {trait}."),
        (f"Write a short text about {a}.", f"The {name} is a wonderful animal. It lives {home}, where it finds {food} to eat. The {name} {trait}."),
    ))  # fmt: skip
    return prompt, answer


def size(random_: random.Random) -> Pair:
    i, j = sorted(random_.sample(range(len(SIZES)), 2))
    small, large = SIZES[i], SIZES[j]
    one, two = random_.sample((small, large), 2)
    a_one, a_two, a_small, a_large = (with_article(noun) for noun in (one, two, small, large))
    prompt, answer = random_.choice((
        (f"Which is bigger, {a_one} or {a_two}?", f"{a_large.capitalize()} is bigger than {a_small}."),
        (f"Which is smaller, {a_one} or {a_two}?", f"{a_small.capitalize()} is smaller than {a_large}."),
        (f"Is {a_large} bigger than {a_small}?", f"Yes, {a_large} is bigger than {a_small}."),
        (f"Is {a_small} bigger than {a_large}?", f"No, {a_small} is smaller than {a_large}."),
    ))  # fmt: skip
    return prompt, answer


def kind_of(random_: random.Random) -> Pair:
    (kind, plural), members = random_.choice(tuple(KINDS.items()))
    member = random_.choice(members)
    a, a_kind = with_article(member), with_article(kind)
    other, _ = random_.choice([key for key in KINDS if key[0] != kind])
    n = random_.randrange(2, 5)
    some = random_.sample(members, n)
    count = {2: "two", 3: "three", 4: "four"}[n]
    listed = ", ".join(some[:-1]) + " and " + some[-1]
    prompt, answer = random_.choice((
        (f"Is {a} {a_kind}?", f"Yes, {a} is {a_kind}."),
        (f"Is {a} {with_article(other)}?", f"No, {a} is not {with_article(other)}. It is {a_kind}."),
        (f"What kind of thing is {a}?", f"{a.capitalize()} is {a_kind}."),
        (f"Name {count} {plural}.", f"Here are {count} {plural}: {listed}."),
        (f"Give me {count} examples of {plural}.", f"Some examples of {plural} are {listed}."),
        (f"Besides {member}, can you name {count} more {plural}?", ""),
    ))  # fmt: skip
    if not answer:
        rest = random_.sample([noun for noun in members if noun != member], n)
        answer = f"Yes. Besides {member}, there are {', '.join(rest[:-1])} and {rest[-1]}."
    return prompt, answer


def advice(random_: random.Random) -> Pair:
    goal = random_.choice(tuple(ADVICE))
    n = random_.choice((2, 3, 3))
    tips = sorted(random_.sample(ADVICE[goal], n), key=ADVICE[goal].index)
    count = {2: "two", 3: "three"}[n]
    asks = (
        f"How can I {goal}?",
        f"What should I do to {goal}?",
        f"I would like to {goal}. What can I do?",
        f"Do you have advice on how to {goal}?",
        f"My friend {random_.choice(WOMEN + MEN)} wants to {goal}. What would you say?",
    )
    if random_.random() < 0.6:
        opening = random_.choice(("", "", "Here is some advice. ", "That is a good question. "))
        return random_.choice(asks), opening + " ".join(tips)
    prompt = random_.choice(
        (f"Give me {count} tips to {goal}.", f"List {count} ways to {goal}.", f"What are {count} good ways to {goal}?")
    )
    return prompt, "\n".join(f"{i}. {tip}" for i, tip in enumerate(tips, 1))


def role(random_: random.Random) -> Pair:
    name, place, work, pride = random_.choice(ROLES)
    a = with_article(name)
    who = random_.choice(WOMEN + MEN)
    when = random_.choice(("today", "this morning", "last night", "yesterday"))
    event, feeling = random_.choice(EVENTS)
    prompt, answer = random_.choice((
        (f"You are {a}. Introduce yourself.", f"Hello, I am {a}. I work {place}, and every day I {work}. {pride}"),
        (f"Pretend to be {a} named {who}. Say hello.", f"Hello! My name is {who} and I am {a}. I work {place}. {pride}"),
        (f"You are {a}. What do you do all day?", f"I am {a}, so I {work}. I like to be {place}. {pride}"),
        (f"You are {a}. Tell me what happened {when}.", f"I was {place} {when}. Suddenly {event}. {feeling} Then I went back to my work."),
        (f"Play the part of {a}. Describe what you saw {when}.", f"{when.capitalize()} I was {place}. It was quiet until {event}. {feeling} {pride}"),
        (f"Imagine that you are {a}. Why do you like your work?", f"I like my work because I {work}. {pride} I am happy {place}."),
        (f"You are {a} and you meet {who}. What do you say?", f"Hello, {who}! Welcome. I am {a}, and I {work}. Would you like to see how I do it?"),
    ))  # fmt: skip
    return prompt, answer


EVENTS = (
    ("a loud wind began to blow", "I was a little afraid, but I stayed calm."),
    ("heavy rain fell from the dark sky", "I closed the windows and waited until it was over."),
    ("a small cat came in through the door", "I gave it some milk, and it went to sleep."),
    ("all the lights went out", "I found a candle and lit it."),
    ("an old friend came to visit", "We talked for hours and drank tea."),
    ("I found a letter on the floor", "It was from my sister, and it made me happy."),
    ("I heard a strange sound", "I looked around and saw that it was only a bird."),
    ("a child asked me for help", "I helped gladly, and the child thanked me."),
    ("I saw a bright light far away", "It was beautiful, and I watched it for a long time."),
    ("snow began to fall", "Everything became white and still."),
)
HEROES = (
    "fox",
    "rabbit",
    "bear",
    "mouse",
    "cat",
    "dog",
    "owl",
    "duck",
    "frog",
    "robot",
    "boy",
    "girl",
    "farmer",
    "sailor",
    "king",
    "turtle",
    "bird",
    "horse",
    "knight",
    "goat",
)
TRAITS = ("little", "brave", "shy", "old", "young", "clever", "hungry", "kind", "tired", "curious", "lonely", "happy")
PLACES = (
    "in a deep forest",
    "near a river",
    "by the sea",
    "in a small village",
    "on a hill",
    "in a big city",
    "on a farm",
    "in an old castle",
    "next to a lake",
    "on a green island",
)
LOSSES = (
    ("a golden key", "under a stone"),
    ("a red ball", "behind a tree"),
    ("a map", "in an old box"),
    ("a warm hat", "on a branch"),
    ("a small bell", "in the grass"),
    ("a book", "on a bench"),
    ("a silver ring", "in a nest"),
    ("a lamp", "near the path"),
)
LESSONS = (
    "From that day on, they were good friends.",
    "In the evening they shared a warm meal.",
    "They laughed and walked home together.",
    "After that, nobody in the place was lonely again.",
)


def story(random_: random.Random) -> Pair:
    hero, friend = random_.sample(HEROES, 2)
    trait, place = random_.choice(TRAITS), random_.choice(PLACES)
    thing, spot = random_.choice(LOSSES)
    name = random_.choice(WOMEN + MEN)
    a, its = with_article(f"{trait} {hero}"), "the " + thing.split(" ", 1)[1]
    about = random_.choice(
        (
            f"about {a}",
            f"about {a} who lives {place}",
            f"about {a} and {with_article(friend)}",
            f"about {a} named {name}",
            f"about {a} who loses {thing}",
            f"about {a} who finds {thing}",
        )
    )
    ask = random_.choice(
        (
            "Tell me a short story",
            "Write a short story",
            "Tell a story",
            "Write a little story",
            "Make up a short story",
        )
    )
    named = f" named {name}" if "named" in about else ""
    start = f"Once upon a time, there was {a}{named} who lived {place}."
    if "finds" in about:
        middle = f"One day the {hero} found {thing} {spot}. A {friend} was looking for it, so the {hero} gave it back.".replace(
            "A owl", "An owl"
        )
    else:
        middle = f"One day the {hero} lost {thing} and looked for it everywhere. A {friend} came by and helped. At last they found {its} {spot}.".replace(
            "A owl", "An owl"
        )
    return f"{ask} {about}.", f"{start} {middle} {random_.choice(LESSONS)}"


def letter(random_: random.Random) -> Pair:
    to, name = random_.sample(WOMEN + MEN, 2)
    cause, line = random_.choice((
        ("thanks for a gift", "Thank you very much for the lovely gift. I use it every day and think of you."),
        ("an invitation to a party", "I would like to invite you to my party on Saturday. There will be cake, music and games."),
        ("a birthday", "Happy birthday! I hope you have a wonderful day with your family and friends."),
        ("an apology for being late", "I am sorry that I was late yesterday. I missed the bus, and it will not happen again."),
        ("greetings from a journey", "I am having a great time by the sea. The weather is sunny and the food is good."),
        ("good wishes for an exam", "I wish you good luck for your exam. You have worked hard, and I believe in you."),
        ("thanks for help", "Thank you for your help last week. Without you I could not have finished the work."),
        ("a wish to get well soon", "I am sorry to hear that you are ill. Please rest well and get better soon."),
    ))  # fmt: skip
    kind = random_.choice(("letter", "note", "message"))
    return (
        f"Write a short {kind} to {to} with {cause}. Sign it as {name}.",
        f"Dear {to},\n\n{line}\n\n{random_.choice(('Best wishes,', 'Yours,', 'With love,'))}\n{name}",
    )


def counting(random_: random.Random) -> Pair:
    low = random_.randrange(1, 30)
    high = low + random_.randrange(3, 9)
    up = ", ".join(map(str, range(low, high + 1)))
    down = ", ".join(map(str, range(high, low - 1, -1)))
    return random_.choice((
        (f"Count from {low} to {high}.", f"{up}."), (f"Count down from {high} to {low}.", f"{down}."),
        (f"What number comes after {high}?", f"The number after {high} is {high + 1}."),
        (f"Which is larger, {low} or {high}?", f"{high} is larger than {low}."),
    ))  # fmt: skip


WEIGHTED: tuple[tuple[Callable[[random.Random], Pair], int], ...] = (
    (greeting, 4), (what_is, 34), (talk, 36), (opposite, 5), (colour, 3), (calendar, 3), (capital, 5), (animal, 6), (size, 3),
    (kind_of, 7), (advice, 8), (role, 4), (story, 4), (letter, 3), (counting, 3),
)  # fmt: skip

# Share of the prompts that are typed in haste: a small first letter, nothing at the end.
HASTY_SHARE = 0.15


def hasty(prompt: str) -> str:
    return prompt[0].lower() + prompt[1:].rstrip(".?!")


def pair(random_: random.Random) -> Pair:
    """A prompt and its answer."""
    makers, weights = zip(*WEIGHTED, strict=True)
    prompt, answer = random_.choices(makers, weights)[0](random_)
    return hasty(prompt) if random_.random() < HASTY_SHARE else prompt, answer
