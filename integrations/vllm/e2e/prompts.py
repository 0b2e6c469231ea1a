"""What the engines are asked: prompts of four kinds, in the form that the model's chat template gives them."""

CODE = '''class Account:
    def __init__(self, owner, balance):
        self.owner = owner
        self.balance = balance

    def deposit(self, amount):
        self.balance = self.balance + amount
        return self.balance

    def withdraw(self, amount):
        self.balance = self.balance - amount
        return self.balance
'''

REPORT = (
    "The harbour of Brevik was closed on Monday after a storm had moved the sand bank at its mouth. Two ferries were sent to Larvik, "
    "and the fishing boats stayed at sea until Wednesday. The mayor said that the harbour would be dredged before the winter, and that "
    "the town would pay half of the cost. The fishing company of Brevik will pay the other half."
)

QUESTIONS = [
    "Tell me a story about a dog that finds a boat.",
    "Why is the sky blue?",
    "What should I cook tonight with potatoes and eggs?",
    "Explain what a hash table is.",
    f"Rewrite this Python class so that withdraw refuses to go below zero:\n\n{CODE}",
    f"Add a method transfer to this Python class:\n\n{CODE}",
    f"Rename the field balance to amount in this Python class:\n\n{CODE}",
    f"Repeat this Python class and add a comment to each method:\n\n{CODE}",
    f"Summarise this text in three sentences:\n\n{REPORT}",
    f"Which places does this text mention?\n\n{REPORT}",
    f"Repeat this text word by word:\n\n{REPORT}",
    f"Write this text in simpler words:\n\n{REPORT}",
    "A train leaves at 9:40 and arrives at 12:15. How long does it take? Think step by step.",
    "Tom has 12 apples, gives away 5 and buys 8. How many has he? Think step by step.",
    "Write the numbers from one to thirty in words, one per line.",
    "List ten European capitals with their countries, one per line.",
]


def prompts(model: str) -> list[str]:
    """Every question in the chat template of a model folder."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    ask = lambda text: tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)
    return [ask(question) for question in QUESTIONS]
