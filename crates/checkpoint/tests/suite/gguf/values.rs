//! Metadata: every type of value, and the getters.

use dsde_checkpoint::gguf::{Gguf, Metadata, Value};

use super::writer::{self, Writer, array, f32s, text};
use super::written;

fn metadata(writer: &Writer) -> Metadata {
    let (_folder, path) = written(&writer.bytes());
    Gguf::open(&path).unwrap().metadata().clone()
}

fn check(type_id: u32, bytes: &[u8], expected: Value) {
    for version in [2, 3] {
        let mut writer = Writer { version, ..Writer::default() };
        writer.value("key", type_id, bytes).text("behind", "it");
        let metadata = metadata(&writer);
        assert_eq!(metadata.get("key"), Some(&expected), "type {type_id}");
        assert_eq!(metadata.text("behind").unwrap(), Some("it"), "type {type_id}");
        assert_eq!(metadata.keys().collect::<Vec<_>>(), ["behind", "key"]);
    }
}

#[test]
fn values_of_every_type_are_read() {
    check(0, &[200], Value::Unsigned(200));
    check(1, &[0xFF], Value::Signed(-1));
    check(2, &[0x34, 0x12], Value::Unsigned(0x1234));
    check(3, &[0xFE, 0xFF], Value::Signed(-2));
    check(4, &[0xFF; 4], Value::Unsigned(0xFFFF_FFFF));
    check(5, &[0xFF; 4], Value::Signed(-1));
    check(6, &1.5f32.to_le_bytes(), Value::Float(1.5));
    check(7, &[1], Value::Flag(true));
    check(7, &[0], Value::Flag(false));
    check(8, &text("déjà"), Value::Text("déjà".to_string()));
    check(10, &[0xFF; 8], Value::Unsigned(u64::MAX));
    check(11, &[0xFF; 8], Value::Signed(-1));
    check(12, &0.1f64.to_le_bytes(), Value::Float(0.1));
}

#[test]
fn arrays_of_every_type_are_read() {
    let check = |type_id, n, elements: &[u8], expected| {
        check(writer::ARRAY, &array(type_id, n, elements), expected);
    };
    check(0, 2, &[200, 1], Value::Unsigneds(vec![200, 1]));
    check(1, 1, &[0xFF], Value::Signeds(vec![-1]));
    check(2, 1, &[0x34, 0x12], Value::Unsigneds(vec![0x1234]));
    check(3, 1, &[0xFE, 0xFF], Value::Signeds(vec![-2]));
    check(4, 1, &[0xFF; 4], Value::Unsigneds(vec![0xFFFF_FFFF]));
    check(5, 2, &[0xFF; 8], Value::Signeds(vec![-1, -1]));
    check(6, 2, &f32s([1.5, -2.0]), Value::Floats(vec![1.5, -2.0]));
    check(7, 3, &[1, 0, 1], Value::Flags(vec![true, false, true]));
    let texts = [text(""), text("b c")].concat();
    check(8, 2, &texts, Value::Texts(vec![String::new(), "b c".to_string()]));
    let arrays = [array(0, 1, [7]), array(8, 0, [])].concat();
    check(9, 2, &arrays, Value::Arrays(vec![Value::Unsigneds(vec![7]), Value::Texts(Vec::new())]));
    check(10, 1, &[0xFF; 8], Value::Unsigneds(vec![u64::MAX]));
    check(11, 1, &[0xFF; 8], Value::Signeds(vec![-1]));
    check(12, 1, &0.1f64.to_le_bytes(), Value::Floats(vec![0.1]));
}

#[test]
fn getters_take_what_fits_and_name_the_key_otherwise() {
    let texts = ["a".to_string(), "b".to_string()];
    let metadata: Metadata = [
        ("text", Value::Text("word".to_string())),
        ("texts", Value::Texts(texts.to_vec())),
        ("unsigned", Value::Unsigned(7)),
        ("signed", Value::Signed(-7)),
        ("float", Value::Float(0.5)),
        ("flag", Value::Flag(true)),
        ("floats", Value::Floats(vec![0.5])),
        ("unsigneds", Value::Unsigneds(vec![7])),
        ("signeds", Value::Signeds(vec![-7])),
        ("huge", Value::Unsigneds(vec![u64::MAX])),
    ]
    .map(|(key, value)| (key.to_string(), value))
    .into_iter()
    .collect();
    assert_eq!(metadata.text("text").unwrap(), Some("word"));
    assert_eq!(metadata.texts("texts").unwrap(), Some(&texts[..]));
    assert_eq!(metadata.len("unsigned").unwrap(), Some(7));
    assert_eq!(metadata.number("unsigned").unwrap(), Some(7.0));
    assert_eq!(metadata.number("signed").unwrap(), Some(-7.0));
    assert_eq!(metadata.number("float").unwrap(), Some(0.5));
    assert_eq!(metadata.flag("flag").unwrap(), Some(true));
    assert_eq!(metadata.floats("floats").unwrap(), Some(&[0.5][..]));
    assert_eq!(metadata.integers("unsigneds").unwrap(), Some(vec![7]));
    assert_eq!(metadata.integers("signeds").unwrap(), Some(vec![-7]));
    assert_eq!(metadata.text("absent").unwrap(), None);

    let refused = [
        (metadata.text("flag").map(drop), "flag must be a text, got true"),
        (metadata.texts("text").map(drop), "text must be an array of texts, got \"word\""),
        (metadata.len("signed").map(drop), "signed must be a whole number that is not negative, got -7"),
        (metadata.len("float").map(drop), "float must be a whole number that is not negative, got 0.5"),
        (metadata.number("texts").map(drop), "texts must be a number, got an array of 2 texts"),
        (metadata.flag("unsigned").map(drop), "unsigned must be true or false, got 7"),
        (
            metadata.integers("huge").map(drop),
            "huge must be an array of whole numbers below 2^63, got an array of 1 whole numbers",
        ),
    ];
    for (refused, expected) in refused {
        assert_eq!(refused.unwrap_err().to_string(), expected);
    }
}
