//! Tests of the edits: lists in every form that somebody might give them.

use super::*;

/// A list before an addition of `z` and after it; then after the removal of `b`. `None`: by hand.
type Case = (&'static str, Option<&'static str>, Option<&'static str>);

const CASES: &[Case] = &[
    ("[\"a\", \"b\"]", Some("[\"a\", \"b\", \"z\"]"), Some("[\"a\"]")),
    ("['a','b']", Some("['a','b', \"z\"]"), Some("['a']")),
    ("[ \"a\", \"b\", ]", Some("[ \"a\", \"b\", \"z\", ]"), Some("[ \"a\", ]")),
    ("[\"a\", \"b\"]  # two of them", Some("[\"a\", \"b\", \"z\"]  # two of them"), Some("[\"a\"]  # two of them")),
    ("[\"a\", \"b\", # one line\n]", Some("[\"a\", \"b\", # one line\n\"z\",\n]"), Some("[\"a\",  # one line\n]")),
    ("[\"a\", \"b\" # last\n]", Some("[\"a\", \"b\", # last\n\"z\"\n]"), Some("[\"a\" # last\n]")),
    ("[\"b\", \"a\"]", Some("[\"b\", \"a\", \"z\"]"), Some("[\"a\"]")),
    ("[\"b\",\"a\",]", Some("[\"b\",\"a\", \"z\",]"), Some("[\"a\",]")),
    ("[\n    \"a\",\n    \"b\",\n]", Some("[\n    \"a\",\n    \"b\",\n    \"z\",\n]"), Some("[\n    \"a\",\n]")),
    ("[\n  \"a\",\n  \"b\"\n]", Some("[\n  \"a\",\n  \"b\",\n  \"z\"\n]"), Some("[\n  \"a\",\n]")),
    (
        "[\n\t# alice\n\t\"a\",  # since 2024\n\t# bob\n\t\"b\",  # the safe in Bonn\n\t# nobody else\n]",
        Some(
            "[\n\t# alice\n\t\"a\",  # since 2024\n\t# bob\n\t\"b\",  # the safe in Bonn\n\t\"z\",\n\t# nobody else\n]",
        ),
        Some("[\n\t# alice\n\t\"a\",  # since 2024\n\t# bob\n\t# nobody else\n]"),
    ),
    (
        "[\n  \"a\", # one, and\n  \"b\"  # two ] \"\n]",
        Some("[\n  \"a\", # one, and\n  \"b\",  # two ] \"\n  \"z\"\n]"),
        Some("[\n  \"a\", # one, and\n]"),
    ),
    ("[\n  \"b\",\n  \"a\",\n]", Some("[\n  \"b\",\n  \"a\",\n  \"z\",\n]"), Some("[\n  \"a\",\n]")),
    ("[\r\n  \"a\",\r\n  \"b\"\r\n]", Some("[\r\n  \"a\",\r\n  \"b\",\r\n  \"z\"\r\n]"), Some("[\r\n  \"a\",\r\n]")),
    ("[\"a\",\n \"b\"]", Some("[\"a\",\n \"b\", \"z\"]"), None),
    ("[\"a\"\n, \"b\"\n]", Some("[\"a\"\n, \"b\",\n\"z\"\n]"), None),
    ("[\n  \"a\"\n  ,\n  \"b\"\n  ,\n]", Some("[\n  \"a\"\n  ,\n  \"b\"\n  ,\n  \"z\",\n]"), None),
    ("[\"\"\"a\"\"\", '''b''']", Some("[\"\"\"a\"\"\", '''b''', \"z\"]"), Some("[\"\"\"a\"\"\"]")),
    ("[\"\\u0061\", \"b\"]", Some("[\"\\u0061\", \"b\", \"z\"]"), Some("[\"\\u0061\"]")),
];

/// The ways in which the key itself may be written.
const FORMS: &[(&str, &str)] = &[
    ("# top\n[encryption]  # keys\nrecipients = ", "\n\n[spool]\nlimit = \"1GiB\"\n"),
    ("encryption.recipients = ", "\n"),
    ("\"encryption\".'recipients' = ", "\n"),
    ("[ encryption ]\n\"recipients\"=", ""),
];

fn recipients(text: &str) -> Vec<String> {
    let table: toml::Table = text.parse().unwrap_or_else(|error| panic!("{text}\n{error}"));
    let list = table["encryption"]["recipients"].as_array().unwrap();
    list.iter().map(|recipient| recipient.as_str().unwrap().to_owned()).collect()
}

#[test]
fn lists_keep_their_form() {
    for (before, added, removed) in CASES {
        for (start, end) in FORMS {
            let whole = |list: &str| format!("{start}{list}{end}");
            let text = whole(before);
            assert_eq!(with_added(&text, "z"), added.map(whole), "{text}");
            let at = recipients(&text).iter().position(|recipient| recipient == "b").unwrap();
            let without = with_removed(&text, at);
            assert_eq!(without, removed.map(whole), "{text}");
            if let Some(with) = with_added(&text, "z") {
                assert_eq!(recipients(&with), [recipients(&text), vec!["z".to_owned()]].concat(), "{text}");
            }
            if let Some(without) = without {
                assert_eq!(recipients(&without), ["a"], "{text}");
            }
        }
    }
}

#[test]
fn a_list_in_a_table_of_one_line_is_edited_too() {
    let text = "encryption = { recipients = [\"a\", \"b\"] }\n";
    assert_eq!(with_added(text, "z").unwrap(), "encryption = { recipients = [\"a\", \"b\", \"z\"] }\n");
    assert_eq!(with_removed(text, 0).unwrap(), "encryption = { recipients = [\"b\"] }\n");
}

#[test]
fn what_is_no_such_list_is_left_alone() {
    for text in
        ["", "[encryption]\n", "[encryption]\nrecipients = \"a\"\n", "encryption = 1", "recipients = [\"a\"]", "["]
    {
        assert_eq!((with_added(text, "z"), with_removed(text, 0)), (None, None), "{text}");
    }
    assert_eq!(with_removed("[encryption]\nrecipients = [\"a\"]\n", 1), None);
}
