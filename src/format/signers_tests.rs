//! Tests of the signers: the lines, the patterns, and every way in which a signature is refused.

use super::*;
use crate::format::signature::{EVIDENCE, HostKey, INVENTORY, LOG};

const LEDGER: &str = "ledger@aaaaaaaaaaaaaaaa";

fn key() -> HostKey {
    HostKey::generate([1; 32], "host")
}

fn stranger() -> HostKey {
    HostKey::generate([2; 32], "stranger")
}

#[test]
fn patterns() {
    let cases = [
        ("ledger@a", "ledger@a", true),
        ("ledger@a", "ledger@b", false),
        ("ledger@a", "*", true),
        ("ledger@a", "*@a", true),
        ("ledger@a", "*@b", false),
        ("ledger@a", "l*r@?", true),
        ("ledger@a", "l*x*@a", false),
        ("ledger@ab", "ledger@?", false),
        ("ledger@", "ledger@?", false),
        ("ledger@a", "ledger@a*", true),
        ("aaab", "*a*ab", true),
        ("aaab", "*a*ba", false),
        ("", "*", true),
        ("", "", true),
        ("a", "", false),
        ("a", "?*", true),
        ("", "?*", false),
        ("ledger@a", "Ledger@a", false),
        ("ledger@a", "wallet@a,ledger@a", true),
        ("ledger@a", "*,!ledger@*", false),
        ("ledger@a", "!ledger@*,*", false),
        ("wallet@a", "!ledger@*,*", true),
        ("wallet@a", "!ledger@*", false),
        ("ledger@a", "x, ledger@a", false),
        ("ledger@a", "", false),
        ("ledger@a", ",", false),
    ];
    for (name, patterns, expected) in cases {
        assert_eq!(matches_list(name, patterns), expected, "{name:?} against {patterns:?}");
    }
    let long = format!("*,{}", "a".repeat(MAX_PATTERN_BYTES));
    assert!(!matches_list("a", &long), "OpenSSH refuses a list with such a pattern");
    assert!(!matches_pattern("a".repeat(2000).as_bytes(), format!("{}b", "*a".repeat(500)).as_bytes()));
}

#[test]
fn lines_that_are_understood() {
    let public = key().public_line();
    let bare = public.strip_suffix(" host").unwrap();
    let lines = [
        format!("{LEDGER} {public}"),
        format!("{LEDGER} {bare}"),
        format!("\t {LEDGER}\t\t{bare}\r"),
        format!("\"{LEDGER}\" {public} and more"),
        format!("\"*@aaaaaaaaaaaaaaaa\" namespaces=\"recoup-*\" {public}"),
        format!("{LEDGER} namespaces=\"recoup-inventory,recoup-log\" {public}"),
        format!("{LEDGER} NameSpaces=\"recoup-inventory\" {public}"),
        format!("{LEDGER} namespaces=\"!file,*\" {public}"),
        format!("# comment\n\n   \n  # another\n{LEDGER} {public}\n"),
        format!("{LEDGER} ssh-rsa AAAAB3Nza other\n{LEDGER} {public}"),
        format!("wallet@* {public}\n{LEDGER} {public}"),
        key().signers_line("*@aaaaaaaaaaaaaaaa", &[INVENTORY, LOG]),
    ];
    let signature = key().sign(INVENTORY, b"bytes");
    for line in lines {
        let signers = Signers::parse(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
        assert_eq!(signers.fingerprints(), [key().fingerprint()]);
        assert_eq!(signers.verify(b"bytes", &signature, INVENTORY, LEDGER), Ok(key().fingerprint()), "{line:?}");
    }
}

#[test]
fn lines_that_are_refused() {
    let public = key().public_line();
    let long_ago = "valid-after=\"20200101\"";
    let cases = [
        (
            format!("# fine\n{LEDGER} {long_ago} {public}"),
            "line 2 of the allowed signers: valid-after is not supported",
        ),
        (format!("{LEDGER} namespaces=\"a\",valid-before=\"20300101Z\" {public}"), "valid-before is not supported"),
        (format!("{LEDGER} cert-authority {public}"), "cert-authority is not supported"),
        (format!("{LEDGER} CERT-authority,namespaces=\"a\" {public}"), "cert-authority is not supported"),
        (format!("{LEDGER} frobnicate {public}"), "\"frobnicate\" is neither"),
        (format!("{LEDGER} namespaces=a {public}"), "double quotes"),
        (format!("{LEDGER} namespaces=\"a {public}"), "not closed"),
        (format!("{LEDGER} namespaces {public}"), "needs a value"),
        (format!("{LEDGER} namespaces=\"a\",namespaces=\"b\" {public}"), "twice"),
        (format!("{LEDGER} namespaces=\"a\"x {public}"), "commas"),
        (format!("{LEDGER} namespaces=\"a\", {public}"), "\"\" is neither"),
        (format!("{LEDGER} namespaces=\"a\" frob {public}"), "\"frob\" is neither"),
        (LEDGER.to_owned(), "the key is missing"),
        (format!("{LEDGER} ssh-ed25519"), "the key itself is missing"),
        (format!("{LEDGER} ssh-ed25519 AAAA"), "damaged"),
        (format!("{LEDGER} {}", public.replace("ssh-ed25519 ", "ssh-ed25519 AAAA")), "damaged"),
        (format!("\"{LEDGER} {public}"), "not closed"),
        (format!("\"\" {public}"), "principals are missing"),
        (public.clone(), "neither an option nor a key type"),
        (" ".repeat(MAX_SIGNERS_BYTES + 1), "more than"),
    ];
    for (text, expected) in cases {
        let error = Signers::parse(&text).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error:?} for {text:?}");
    }
}

#[test]
fn other_keys_are_remarked_on() {
    let types = ["ssh-rsa", "ecdsa-sha2-nistp256", "sk-ssh-ed25519@openssh.com", "ssh-ed25519-cert-v01@openssh.com"];
    for (at, key_type) in types.iter().enumerate() {
        let parsed = Signers::parse(&format!("* {key_type} AAAA someone"));
        if at < 3 {
            let signers = parsed.unwrap();
            assert!(signers.is_empty());
            assert!(signers.remarks()[0].contains(key_type), "{:?}", signers.remarks());
        } else {
            assert!(parsed.unwrap_err().why.contains("neither"));
        }
    }
}

#[test]
fn every_refusal() {
    let signers = Signers::parse(&key().signers_line("ledger@*,!ledger@bbbb*", &[INVENTORY, "recoup-l?g"])).unwrap();
    let good = key().sign(INVENTORY, b"bytes");
    let signer = key().fingerprint();
    assert_eq!(signers.verify(b"bytes", &good, INVENTORY, LEDGER), Ok(signer.clone()));
    assert_eq!(signers.verify(b"bytes", &key().sign(LOG, b"bytes"), LOG, LEDGER), Ok(signer.clone()));

    assert_eq!(signers.verify(b"Bytes", &good, INVENTORY, LEDGER), Err(SignatureError::Mismatch(signer.clone())));
    assert_eq!(signers.verify(b"", &good, INVENTORY, LEDGER), Err(SignatureError::Mismatch(signer.clone())));
    assert!(matches!(signers.verify(b"bytes", "", INVENTORY, LEDGER), Err(SignatureError::Malformed(_))));
    let found = INVENTORY.to_owned();
    assert_eq!(
        signers.verify(b"bytes", &good, LOG, LEDGER),
        Err(SignatureError::Namespace { found, wanted: LOG.to_owned() })
    );
    assert_eq!(
        signers.verify(b"bytes", &stranger().sign(INVENTORY, b"bytes"), INVENTORY, LEDGER),
        Err(SignatureError::UnknownSigner(stranger().fingerprint()))
    );
    for principal in ["wallet@aaaaaaaaaaaaaaaa", "ledger@bbbbbbbbbbbbbbbb", "ledger", "", "xledger@aaaaaaaaaaaaaaaa"] {
        assert_eq!(
            signers.verify(b"bytes", &good, INVENTORY, principal),
            Err(SignatureError::Principal { signer: signer.clone(), principal: principal.to_owned() })
        );
    }
    let (namespace, principal) = (EVIDENCE.to_owned(), LEDGER.to_owned());
    assert_eq!(
        signers.verify(b"bytes", &key().sign(EVIDENCE, b"bytes"), EVIDENCE, LEDGER),
        Err(SignatureError::Role { signer: signer.clone(), principal, namespace })
    );
    assert!(matches!(
        Signers::default().verify(b"bytes", &good, INVENTORY, LEDGER),
        Err(SignatureError::UnknownSigner(_))
    ));
}

#[test]
fn no_flipped_bit_is_accepted() {
    let signers = Signers::parse(&key().signers_line("*", &["*"])).unwrap();
    let good = key().sign(INVENTORY, b"bytes");
    let mut refused = 0;
    for at in 0..good.len() {
        let mut bad = good.clone().into_bytes();
        bad[at] ^= 1;
        let Ok(bad) = String::from_utf8(bad) else { continue };
        if signers.verify(b"bytes", &bad, INVENTORY, LEDGER).is_err() {
            refused += 1;
        }
    }
    assert_eq!(refused, good.len(), "a signature with one bit flipped was accepted");
}
