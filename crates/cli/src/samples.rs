//! Prompts inside the program, so that a fresh machine has something to run.

use dsde_bench::{Item, Prompt, Workload};

/// Name of the built-in workload.
pub(crate) const NAME: &str = "demo";

/// Conversation, word problems and small functions, taking turns: the embedded pair agrees differently well on each.
const PROMPTS: [(&str, &str); 16] = [
    ("chat", "What can you tell me about the sea?"),
    (
        "math",
        "A class of 28 children forms groups of 4. Each group needs 3 pencils. How many pencils are needed?",
    ),
    (
        "code",
        "Complete this Python function.\ndef is_palindrome(text):\n    \"\"\"Return True if text reads the same backwards.\"\"\"\n",
    ),
    ("chat", "Please describe what a rainbow is."),
    ("math", "Mira has 20 euros. She buys 3 pens for 4 euros each. How many euros are left?"),
    (
        "code",
        "Complete this Python function.\ndef count_lines(path):\n    \"\"\"Return how many lines the file at path has.\"\"\"\n",
    ),
    ("chat", "Tell me a short story about a shy owl who loses a red ball."),
    ("math", "A train covers 80 miles per hour. How many miles does it cover in 4 hours?"),
    (
        "code",
        "Complete this Python function.\ndef clamp(value, low, high):\n    \"\"\"Return value limited to the range from low to high.\"\"\"\n",
    ),
    ("chat", "Explain in simple words what snow is."),
    ("math", "A baker puts 6 rolls in each bag and sells 9 bags. How many rolls does the baker sell?"),
    (
        "code",
        "Complete this Python function.\ndef unique(items):\n    \"\"\"Return items without duplicates, in their order.\"\"\"\n",
    ),
    ("chat", "What can you tell me about Python?"),
    (
        "math",
        "A kite costs 35 euros. Nils saves 5 euros every week. How many weeks does he need to buy the kite?",
    ),
    (
        "code",
        "Complete this Python function.\ndef only_even(numbers):\n    \"\"\"Return the even numbers of a list.\"\"\"\n",
    ),
    ("chat", "Write a short letter to Anna with thanks for help. Sign it as Tom."),
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
