//! Detached signatures in OpenSSH's SSHSIG form, which `ssh-keygen -Y verify` checks.
//!
//! The host's key is an unencrypted OpenSSH Ed25519 key: a backup runs unattended. A signature names its
//! namespace, so that one made for an inventory says nothing about a log segment.

use crate::core::id::{RepositoryId, SourceName};
use ssh_key::{
    Algorithm, Fingerprint, HashAlg, LineEnding, PrivateKey, PublicKey, SshSig,
    private::{Ed25519Keypair, KeypairData},
    public::{Ed25519PublicKey, KeyData},
};
use std::fmt;

/// Namespace of signatures over inventories.
pub const INVENTORY: &str = "recoup-inventory";
/// Namespace of signatures over log records.
pub const LOG: &str = "recoup-log";
/// Namespace of signatures over evidence records.
pub const EVIDENCE: &str = "recoup-evidence";
/// Namespace of signatures over prune plans and tombstones.
pub const PRUNE: &str = "recoup-prune";
/// Namespace of signatures over records about keys.
pub const KEYS: &str = "recoup-keys";
/// Namespace of signatures over reports.
pub const REPORT: &str = "recoup-report";

/// A signature of an Ed25519 key takes about 300 bytes; anything larger than this is not looked at.
pub const MAX_SIGNATURE_BYTES: usize = 8 * 1024;

/// A private key takes about 400 bytes and a comment; anything larger than this is not looked at.
const MAX_KEY_BYTES: usize = 64 * 1024;

/// Who signs what belongs to a source of a repository, as `allowed_signers` names it: `ledger@<repository id>`.
pub fn principal(source: &SourceName, repository: &RepositoryId) -> String {
    format!("{source}@{repository}")
}

/// Who signs what belongs to a whole repository, in a role: `keys@<repository id>`.
pub fn role_principal(role: &str, repository: &RepositoryId) -> String {
    format!("{role}@{repository}")
}

/// The SHA-256 fingerprint of a signer's public key, as `ssh-keygen -l` prints it: `SHA256:...`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SignerFingerprint(String);

impl SignerFingerprint {
    pub(super) fn of(key: &Ed25519PublicKey) -> Self {
        SignerFingerprint(Fingerprint::new(HashAlg::Sha256, &KeyData::Ed25519(*key)).to_string())
    }

    /// The fingerprint as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SignerFingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for SignerFingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Why a text is no key that this host can sign with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not an OpenSSH private key, or a damaged one.
    #[error("it is not an OpenSSH private key (-----BEGIN OPENSSH PRIVATE KEY-----), or it is damaged")]
    Malformed,
    /// It needs a passphrase, and nobody is there to type one.
    #[error(
        "it is protected by a passphrase, and backups run unattended; make a key without one: ssh-keygen -t ed25519 -N ''"
    )]
    Encrypted,
    /// Another algorithm.
    #[error("it is not an Ed25519 key; make one: ssh-keygen -t ed25519 -N ''")]
    Algorithm,
}

/// The key that this host signs with.
#[derive(Clone)]
pub struct HostKey {
    private: PrivateKey,
    public: Ed25519PublicKey,
}

impl HostKey {
    /// Reads an OpenSSH private key: Ed25519, without a passphrase.
    pub fn from_openssh(text: &str) -> Result<Self, KeyError> {
        if text.len() > MAX_KEY_BYTES {
            return Err(KeyError::Malformed);
        }
        let private = PrivateKey::from_openssh(text.trim_start()).map_err(|error| match error {
            ssh_key::Error::AlgorithmUnknown | ssh_key::Error::AlgorithmUnsupported { .. } => KeyError::Algorithm,
            _ => KeyError::Malformed,
        })?;
        HostKey::from_private(private)
    }

    fn from_private(private: PrivateKey) -> Result<Self, KeyError> {
        if private.is_encrypted() {
            return Err(KeyError::Encrypted);
        }
        match private.key_data() {
            KeypairData::Ed25519(pair) => Ok(HostKey { public: pair.public, private }),
            _ => Err(KeyError::Algorithm),
        }
    }

    /// The key that belongs to 32 random bytes, with a comment such as `recoup@host`.
    pub fn generate(random: [u8; 32], comment: &str) -> Self {
        let pair = Ed25519Keypair::from_seed(&random);
        let public = pair.public;
        let private = PrivateKey::new(KeypairData::Ed25519(pair), one_line(comment)).expect("the pair is in clear");
        HostKey { private, public }
    }

    /// The private key as OpenSSH writes it. Belongs into a file of mode 0600 and nowhere else.
    pub fn to_openssh(&self) -> String {
        self.private.to_openssh(LineEnding::LF).expect("an Ed25519 key can be written").to_string()
    }

    /// The public key as one line of a `.pub` file, without the line end.
    pub fn public_line(&self) -> String {
        self.private.public_key().to_openssh().expect("an Ed25519 key can be written")
    }

    /// The public key's fingerprint.
    pub fn fingerprint(&self) -> SignerFingerprint {
        SignerFingerprint::of(&self.public)
    }

    /// The `allowed_signers` line that lets this key sign in `namespaces` as what matches `principals`
    /// (patterns separated by commas), without the line end.
    pub fn signers_line(&self, principals: &str, namespaces: &[&str]) -> String {
        format!("{principals} namespaces=\"{}\" {}", namespaces.join(","), self.public_line())
    }

    /// Signs bytes in a namespace: the text of a `.sig` file. The same bytes give the same text.
    pub fn sign(&self, namespace: &str, bytes: &[u8]) -> String {
        assert!(!namespace.is_empty(), "SSHSIG knows no empty namespace");
        self.private
            .sign(namespace, HashAlg::Sha512, bytes)
            .and_then(|signature| signature.to_pem(LineEnding::LF))
            .map(end_line)
            .expect("signing with an Ed25519 key in memory cannot fail")
    }
}

impl fmt::Debug for HostKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "HostKey({})", self.fingerprint())
    }
}

/// Every line of a `.sig` file ends, the last one too.
fn end_line(pem: String) -> String {
    if pem.ends_with('\n') { pem } else { pem + "\n" }
}

/// A comment must not break out of its line.
fn one_line(comment: &str) -> String {
    comment.chars().filter(|character| !character.is_control()).take(200).collect()
}

/// Why a signature was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Not a signature at all.
    #[error("the signature is malformed: {0}")]
    Malformed(String),
    /// Made for something else.
    #[error("the signature was made for {found:?}, not for {wanted:?}")]
    Namespace {
        /// The namespace that the signature names.
        found: String,
        /// The one that it should name.
        wanted: String,
    },
    /// Made by a key that no line of the signers names.
    #[error("signed by {0}, which is not among the allowed signers")]
    UnknownSigner(SignerFingerprint),
    /// Made by a key of another algorithm.
    #[error("signed by a key of type {0}; only ssh-ed25519 is accepted")]
    Algorithm(String),
    /// The signer is known, but not as this principal.
    #[error("signed by {signer}, which may not sign as {principal}")]
    Principal {
        /// Who signed.
        signer: SignerFingerprint,
        /// Whom it would have to speak for.
        principal: String,
    },
    /// The signer may speak for the principal, but not in this namespace.
    #[error("signed by {signer}, which may not sign {namespace} as {principal}")]
    Role {
        /// Who signed.
        signer: SignerFingerprint,
        /// Whom it speaks for.
        principal: String,
        /// In which namespace.
        namespace: String,
    },
    /// The signature is of other bytes.
    #[error("the signature of {0} does not match the bytes")]
    Mismatch(SignerFingerprint),
}

impl SignatureError {
    /// Whether all that is wrong is that the signer may not sign so.
    pub fn is_of_trust(&self) -> bool {
        matches!(
            self,
            SignatureError::UnknownSigner(_) | SignatureError::Principal { .. } | SignatureError::Role { .. }
        )
    }
}

/// A signature that was read, and neither believed nor checked.
#[derive(Debug)]
pub(super) struct Unchecked {
    signature: SshSig,
    key: Ed25519PublicKey,
}

impl Unchecked {
    /// Reads a signature from hostile text.
    pub(super) fn parse(pem: &str) -> Result<Self, SignatureError> {
        let malformed = |why: &str| SignatureError::Malformed(why.to_owned());
        if pem.len() > MAX_SIGNATURE_BYTES {
            return Err(malformed("it is too large"));
        }
        let signature = SshSig::from_pem(pem).map_err(|error| match error {
            ssh_key::Error::AlgorithmUnknown | ssh_key::Error::AlgorithmUnsupported { .. } => {
                SignatureError::Algorithm("unknown".to_owned())
            }
            other => SignatureError::Malformed(other.to_string()),
        })?;
        if signature.version() != SshSig::VERSION {
            return Err(malformed("it has another version"));
        }
        // OpenSSH signs an empty reserved field whatever the signature carries; so nothing else can be right.
        if !signature.reserved().is_empty() {
            return Err(malformed("its reserved field is not empty"));
        }
        // Exactly one text is the signature, or else a store could hold an altered copy that nobody notices.
        if signature.to_pem(LineEnding::LF).map(end_line).ok().as_deref() != Some(pem) {
            return Err(malformed("it is not written as OpenSSH writes it"));
        }
        match signature.public_key() {
            KeyData::Ed25519(key) if signature.algorithm() == Algorithm::Ed25519 => {
                Ok(Unchecked { key: *key, signature })
            }
            KeyData::Ed25519(_) => Err(malformed("its key and its signature differ in type")),
            other => Err(SignatureError::Algorithm(other.algorithm().to_string())),
        }
    }

    /// The key that claims to have made it.
    pub(super) fn key(&self) -> &Ed25519PublicKey {
        &self.key
    }

    /// The namespace that it names, shortened.
    pub(super) fn namespace(&self) -> &str {
        self.signature.namespace()
    }

    /// Whether the key really signed these bytes in this namespace.
    pub(super) fn matches(&self, bytes: &[u8], namespace: &str) -> bool {
        PublicKey::from(KeyData::Ed25519(self.key)).verify(namespace, bytes, &self.signature).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_round_trip() {
        let key = HostKey::generate([7; 32], "recoup@host\nssh-ed25519 AAAA");
        let again = HostKey::from_openssh(&key.to_openssh()).unwrap();
        assert_eq!(again.fingerprint(), key.fingerprint());
        assert_eq!(again.public_line(), key.public_line());
        assert!(key.public_line().starts_with("ssh-ed25519 AAAA"));
        assert!(key.public_line().ends_with(" recoup@hostssh-ed25519 AAAA"), "{}", key.public_line());
        assert!(key.fingerprint().as_str().starts_with("SHA256:"));
        assert_eq!(format!("{key:?}"), format!("HostKey({})", key.fingerprint()));
        assert_ne!(HostKey::generate([8; 32], "").fingerprint(), key.fingerprint());
    }

    #[test]
    fn unfit_keys_are_told_apart() {
        let good = HostKey::generate([7; 32], "").to_openssh();
        let cut = &good[..good.len() / 2];
        let huge = "A".repeat(MAX_KEY_BYTES + 1);
        for bad in ["", "rubbish", cut, &huge, "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n"]
        {
            assert_eq!(HostKey::from_openssh(bad).unwrap_err(), KeyError::Malformed);
        }
        assert!(HostKey::from_openssh(&format!("\n{good}")).is_ok());
    }

    #[test]
    fn signatures_are_repeatable_and_wrapped() {
        let key = HostKey::generate([7; 32], "");
        let signature = key.sign(INVENTORY, b"bytes");
        assert_eq!(signature, key.sign(INVENTORY, b"bytes"));
        assert!(signature.starts_with("-----BEGIN SSH SIGNATURE-----\n"));
        assert!(signature.ends_with("\n-----END SSH SIGNATURE-----\n"));
        assert!(signature.lines().all(|line| line.len() <= 70));
        assert_ne!(signature, key.sign(LOG, b"bytes"));
    }

    #[test]
    fn hostile_signatures_do_not_parse() {
        let good = HostKey::generate([7; 32], "").sign(INVENTORY, b"bytes");
        assert!(Unchecked::parse(&good).is_ok());
        let huge = format!("{good}{}", "\n".repeat(MAX_SIGNATURE_BYTES));
        let cut = good.replacen("AAAA", "", 1);
        for bad in ["", "rubbish", &huge, &cut, &good[1..], &format!("x{good}"), &good.replace("SSH SIG", "SSH SAG")] {
            assert!(matches!(Unchecked::parse(bad), Err(SignatureError::Malformed(_))), "{bad}");
        }
    }

    #[test]
    fn principals() {
        let repository = RepositoryId::from_random([0; 16]);
        assert_eq!(principal(&"ledger".parse().unwrap(), &repository), "ledger@aaaaaaaaaaaaaaaa");
    }
}
