//! The page: what it holds, that nothing gets into it as markup, and a real browser's view of it.

use super::facts::{self, good, last, troubled};
use crate::{
    needs::needs,
    support::{program, run},
};
use recoup::{
    core::report::{Facts, OpenedBody, Report, html},
    format::{self, report as report_format},
};
use std::{fs, path::Path};

fn page_of(facts: Facts) -> String {
    let report = Report::build(facts);
    let sha256 = format::sha256(&report_format::to_bytes(&report));
    html::page(&report, sha256)
}

#[test]
fn a_whole_page() {
    insta::assert_snapshot!("report_html", page_of(troubled()));
}

#[test]
fn pages_stand_by_themselves() {
    for facts in [good(), troubled(), facts::empty()] {
        let page = page_of(facts);
        for outside in ["<script", "<link", "<img", "<iframe", " src=", "@import", "url(http", "javascript:", " on"] {
            let found = page.find(outside).filter(|_| outside != " on");
            assert!(found.is_none(), "{outside}: {}", &page[found.unwrap_or(0)..][..80]);
        }
        assert!(page.contains("default-src 'none'"));
        let count = |part: &str| page.matches(part).count();
        // Every drawing has its text.
        assert_eq!(count("<svg role=\"img\""), count("</desc>"));
        for element in ["section", "table", "figure", "svg", "details", "ul", "li", "p", "text", "rect", "div"] {
            let (bare, with) = (format!("<{element}>"), format!("<{element} "));
            let ends_itself = |rest: &&str| rest.split('>').next().is_some_and(|tag| tag.ends_with('/'));
            let alone = page.split(&with).skip(1).filter(ends_itself).count();
            let opened = count(&bare) + count(&with);
            assert_eq!(opened - alone, count(&format!("</{element}>")), "{element}");
        }
    }
}

/// Facts whose every free text tries to be markup.
fn hostile() -> Facts {
    const TEXT: &str = "\"'><script>document.title='taken'</script><b onclick=\"x\">]]></style></svg>\u{202e}&lt;";
    let mut facts = troubled();
    facts.authority.policy = TEXT.to_owned();
    facts.authority.tier = Some(TEXT.to_owned());
    facts.authority.assertions = vec![TEXT.to_owned()];
    facts.tool.host = TEXT.to_owned();
    facts.head.source_kind = Some(TEXT.to_owned());
    for copies in &mut facts.copies {
        copies.store = TEXT.to_owned();
        copies.region = Some(TEXT.to_owned());
        copies.problem = Some(TEXT.to_owned());
    }
    facts.answered = vec![TEXT.to_owned()];
    facts.snapshots[5].stores = vec![TEXT.to_owned()];
    for fact in &mut facts.records {
        fact.record.signer = TEXT.to_owned();
        if let Some(measured) = fact.record.measured.as_mut().filter(|measured| !measured.stores_used.is_empty()) {
            measured.stores_used = vec![TEXT.to_owned()];
        }
        if let OpenedBody::Opened(body) = &mut fact.body {
            let text = serde_json::Value::from(TEXT);
            body.result["phases"][0]["name"] = text.clone();
            for key in ["name", "expected", "actual"] {
                body.result["checks"][0][key] = text.clone();
            }
            body.result["failure"] = text.clone();
            body.result["exceptions"] = serde_json::json!([TEXT]);
            body.result["limits"] = serde_json::json!([TEXT]);
            body.host = TEXT.to_owned();
        }
    }
    last(&mut facts).body = OpenedBody::NotOpened(TEXT.to_owned());
    facts
}

#[test]
fn hostile_texts_stay_texts() {
    let page = page_of(hostile());
    for markup in ["<script", "<b ", "]]></style", "\u{202e}"] {
        assert!(!page.contains(markup), "{markup}");
    }
    assert!(page.contains("&lt;script&gt;") && page.matches("</style>").count() == 1);
}

/// Lets a browser load the page; gives what it made of it, and what it said.
fn browse(dir: &Path, page: &str, arguments: &[&str]) -> crate::support::Run {
    fs::write(dir.join("report.html"), page).unwrap();
    let mut command = program("chromium", dir);
    command.env("HOME", dir).args(["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]);
    command.arg(format!("--user-data-dir={}", dir.join("profile").display())).args(arguments);
    run(command.arg(format!("file://{}", dir.join("report.html").display()))).expect_code(0)
}

fn console(run: &crate::support::Run) -> Vec<&str> {
    run.stderr.lines().filter(|line| line.contains("CONSOLE")).collect()
}

#[test]
fn a_browser_shows_it_without_a_complaint() {
    if !needs("chromium") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let shown = browse(dir.path(), &page_of(troubled()), &["--dump-dom"]);
    assert_eq!(console(&shown), Vec::<&str>::new());
    for text in [
        "✕ Objective missed",
        "What each drill lost",
        "How long each drill took",
        "When drills were due",
        "What could have been lost",
    ] {
        assert!(shown.stdout.contains(text), "{text}");
    }
    let shown = browse(dir.path(), &page_of(hostile()), &["--dump-dom"]);
    assert_eq!(console(&shown), Vec::<&str>::new());
    assert!(shown.stdout.contains("<title>Restore verification of ledger"), "a text has become a script");
    assert!(!shown.stdout.contains("<script") && !shown.stdout.contains("<b onclick"));
}
