//! Prompts inside the program, so that a fresh machine has something to run.

use dsde_bench::{Item, Prompt, Workload};

/// Name of the built-in workload.
pub(crate) const NAME: &str = "demo";

/// Conversation, word problems and small functions, taking turns: the embedded pair agrees differently well on each.
const PROMPTS: [(&str, &str); 16] = [
    ("chat", "You are a lighthouse keeper. Describe the storm you saw last night."),
    ("math", "A baker puts 6 rolls in each bag and sells 14 bags. How many rolls does the baker sell?"),
    (
        "code",
        "Complete this Python function.\ndef is_palindrome(text):\n    \"\"\"Return True if text reads the same backwards.\"\"\"\n",
    ),
    ("chat", "Explain to a child why leaves change their colour in autumn."),
    ("math", "Mira has 45 euros. She buys 3 books for 9 euros each. How much money does she have left?"),
    (
        "code",
        "Complete this Python function.\ndef count_words(path):\n    \"\"\"Return how many words the file at path holds.\"\"\"\n",
    ),
    ("chat", "Pretend to be a ship's cook who is proud of his soup. Introduce yourself."),
    ("math", "A train covers 80 miles per hour. How many miles does it cover in 4 hours?"),
    (
        "code",
        "Complete this Python function.\ndef clamp(value, low, high):\n    \"\"\"Return value limited to the range from low to high.\"\"\"\n",
    ),
    ("chat", "Give three tips for somebody who speaks in public for the first time."),
    (
        "math",
        "Tom picks 12 apples and Ana picks twice as many. They share them equally. How many does each get?",
    ),
    (
        "code",
        "Complete this Python function.\ndef flatten(items):\n    \"\"\"Yield the elements of all lists in items, one by one.\"\"\"\n",
    ),
    ("chat", "You are a detective who has lost a hat. Tell what you do first."),
    (
        "math",
        "A class of 28 children forms groups of 4. Each group needs 3 pencils. How many pencils are needed?",
    ),
    (
        "code",
        "Complete this Python function.\ndef parse_header(line):\n    \"\"\"Split a header line into its name and its value.\"\"\"\n",
    ),
    ("chat", "Write a short letter from a robot to the engineer who built it."),
];

/// The prompts as a workload.
pub(crate) fn workload() -> Workload {
    let item = |(i, (domain, prompt)): (usize, &(&str, &str))| Item {
        prompt: Prompt::Text((*prompt).to_owned()),
        domain: Some((*domain).to_owned()),
        max_tokens: None,
        line: i as u64 + 1,
    };
    Workload { name: NAME.to_owned(), items: PROMPTS.iter().enumerate().map(item).collect(), suspect: None }
}
