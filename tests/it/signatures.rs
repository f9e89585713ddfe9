//! Signatures against the real `ssh-keygen`: what we sign it verifies, what it signs we verify.

use crate::needs::needs;
use recoup::format::{
    signature::{self, HostKey, KeyError, SignatureError},
    signers::Signers,
};
use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

const LEDGER: &str = "ledger@aaaaaaaaaaaaaaaa";

fn ssh_keygen(dir: &Path, arguments: &[&str], input: &Path) -> Output {
    let input = if input.as_os_str().is_empty() {
        Stdio::null()
    } else {
        Stdio::from(fs::File::open(input).expect("the input exists"))
    };
    Command::new("ssh-keygen").current_dir(dir).args(arguments).stdin(input).output().expect("ssh-keygen runs")
}

fn run(dir: &Path, arguments: &[&str]) {
    let output = ssh_keygen(dir, arguments, Path::new(""));
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn stock_verify(dir: &Path, namespace: &str, principal: &str) -> bool {
    let arguments = ["-Y", "verify", "-f", "signers", "-I", principal, "-n", namespace, "-s", "data.sig"];
    ssh_keygen(dir, &arguments, &dir.join("data")).status.success()
}

#[test]
fn stock_openssh_accepts_our_signatures_and_refuses_what_we_refuse() {
    if !needs("ssh-keygen") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let key = HostKey::generate([5; 32], "recoup@host");
    let text = key.signers_line("*@aaaaaaaaaaaaaaaa,!wallet@*", &[signature::INVENTORY, "recoup-l*"]);
    fs::write(dir.join("signers"), format!("# signers\n{text}\n")).unwrap();
    let signers = Signers::parse(&text).unwrap();
    let cases = [
        (b"bytes", b"bytes", signature::INVENTORY, signature::INVENTORY, LEDGER, true),
        (b"bytes", b"bytes", signature::LOG, signature::LOG, LEDGER, true),
        (b"bytes", b"Bytes", signature::INVENTORY, signature::INVENTORY, LEDGER, false),
        (b"bytes", b"bytes", signature::INVENTORY, signature::LOG, LEDGER, false),
        (b"bytes", b"bytes", signature::PRUNE, signature::PRUNE, LEDGER, false),
        (b"bytes", b"bytes", signature::INVENTORY, signature::INVENTORY, "ledger@b", false),
        (b"bytes", b"bytes", signature::INVENTORY, signature::INVENTORY, "wallet@aaaaaaaaaaaaaaaa", false),
    ];
    for (signed, shown, signed_in, shown_in, principal, expected) in cases {
        let pem = key.sign(signed_in, signed);
        fs::write(dir.join("data"), shown).unwrap();
        fs::write(dir.join("data.sig"), &pem).unwrap();
        let ours = signers.verify(shown, &pem, shown_in, principal);
        assert_eq!(ours.is_ok(), expected, "{signed_in} as {shown_in}, {principal}: {ours:?}");
        assert_eq!(stock_verify(dir, shown_in, principal), expected, "{signed_in} as {shown_in}, {principal}");
    }
}

#[test]
fn we_read_stock_keys_and_write_their_very_signatures() {
    if !needs("ssh-keygen") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(dir, &["-q", "-t", "ed25519", "-N", "", "-C", "a comment", "-f", "stock"]);
    let key = HostKey::from_openssh(&fs::read_to_string(dir.join("stock")).unwrap()).unwrap();
    assert_eq!(fs::read_to_string(dir.join("stock.pub")).unwrap().trim_end(), key.public_line());
    let printed = ssh_keygen(dir, &["-l", "-f", "stock.pub"], Path::new("")).stdout;
    assert!(String::from_utf8(printed).unwrap().contains(key.fingerprint().as_str()));

    fs::write(dir.join("data"), b"bytes").unwrap();
    run(dir, &["-q", "-Y", "sign", "-f", "stock", "-n", signature::INVENTORY, "data"]);
    let stock = fs::read_to_string(dir.join("data.sig")).unwrap();
    assert_eq!(stock, key.sign(signature::INVENTORY, b"bytes"), "Ed25519 leaves nothing to chance");
    let signers = Signers::parse(&key.signers_line("*", &["recoup-*"])).unwrap();
    assert_eq!(signers.verify(b"bytes", &stock, signature::INVENTORY, LEDGER), Ok(key.fingerprint()));

    fs::remove_file(dir.join("data.sig")).unwrap();
    run(dir, &["-q", "-Y", "sign", "-O", "hashalg=sha256", "-f", "stock", "-n", signature::INVENTORY, "data"]);
    let stock = fs::read_to_string(dir.join("data.sig")).unwrap();
    assert_eq!(signers.verify(b"bytes", &stock, signature::INVENTORY, LEDGER), Ok(key.fingerprint()));
}

#[test]
fn stock_openssh_reads_our_key() {
    if !needs("ssh-keygen") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let key = HostKey::generate([6; 32], "recoup@host");
    let path = dir.path().join("ours");
    fs::write(&path, key.to_openssh()).unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let public = ssh_keygen(dir.path(), &["-y", "-f", "ours"], Path::new("")).stdout;
    assert_eq!(String::from_utf8(public).unwrap().trim_end(), key.public_line());
}

#[test]
fn unfit_stock_keys_are_refused_by_name() {
    if !needs("ssh-keygen") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let cases = [
        ("locked", ["-t", "ed25519", "-N", "secret"], KeyError::Encrypted),
        ("rsa", ["-t", "rsa", "-N", ""], KeyError::Algorithm),
        ("ecdsa", ["-t", "ecdsa", "-N", ""], KeyError::Algorithm),
        ("locked-rsa", ["-t", "rsa", "-N", "secret"], KeyError::Encrypted),
    ];
    for (name, arguments, expected) in cases {
        run(dir, &[&["-q", "-f", name], &arguments[..]].concat());
        let text = fs::read_to_string(dir.join(name)).unwrap();
        assert_eq!(HostKey::from_openssh(&text).unwrap_err(), expected, "{name}");
    }
    // Their public keys in the signers are remarked on, and their signatures refused.
    fs::write(dir.join("data"), b"bytes").unwrap();
    let line = |name: &str| format!("* {}", fs::read_to_string(dir.join(format!("{name}.pub"))).unwrap());
    let signers = Signers::parse(&(line("rsa") + &line("ecdsa"))).unwrap();
    assert_eq!((signers.is_empty(), signers.remarks().len()), (true, 2));
    for name in ["rsa", "ecdsa"] {
        run(dir, &["-q", "-Y", "sign", "-f", name, "-n", signature::INVENTORY, "data"]);
        let pem = fs::read_to_string(dir.join("data.sig")).unwrap();
        fs::remove_file(dir.join("data.sig")).unwrap();
        let error = signers.verify(b"bytes", &pem, signature::INVENTORY, LEDGER).unwrap_err();
        assert!(matches!(error, SignatureError::Algorithm(_)), "{name}: {error:?}");
    }
}
