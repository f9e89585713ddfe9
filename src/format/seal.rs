//! Sealing and opening: a standard age file around standard zstd frames.
//!
//! Recipients are public keys; only identities open. age authenticates nobody: whoever holds the public
//! recipients can seal. What was sealed by whom is settled by digests in signed inventories.

use super::FormatError;
use crate::core::id::Sha256;
use sha2::Digest;
use std::io::{self, BufRead, BufReader, Read, Write};

/// Public keys that objects are sealed to.
#[derive(Clone, Default)]
pub struct Recipients {
    keys: Vec<Recipient>,
    names: Vec<String>,
}

#[derive(Clone)]
enum Recipient {
    Native(age::x25519::Recipient),
    Ssh(age::ssh::Recipient),
}

/// Why a recipient was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no recipient: expected age1..., ssh-ed25519 ... or ssh-rsa ...")]
pub struct InvalidRecipient(String);

impl InvalidRecipient {
    /// Shows what was given, unless it is a private key: messages end up in logs.
    fn of(text: &str) -> Self {
        let upper = text.to_ascii_uppercase();
        if upper.contains("SECRET-KEY") || upper.contains("PRIVATE KEY") {
            return InvalidRecipient("a private key (not shown; replace it if others can read where it stands)".into());
        }
        InvalidRecipient(format!("{:?}", text.chars().take(100).collect::<String>()))
    }
}

impl Recipients {
    /// Reads recipients from their text forms, in the given order, without repetitions.
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Self, InvalidRecipient> {
        let mut recipients = Recipients::default();
        for text in texts {
            let text = text.as_ref().trim();
            let wrong = || InvalidRecipient::of(text);
            let (key, name) = if text.starts_with("age1") {
                let key: age::x25519::Recipient = text.parse().map_err(|_| wrong())?;
                let name = key.to_string();
                (Recipient::Native(key), name)
            } else {
                let key: age::ssh::Recipient = text.parse().map_err(|_| wrong())?;
                // The comment is no part of the key.
                let name = text.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
                (Recipient::Ssh(key), name)
            };
            if !recipients.names.contains(&name) {
                recipients.keys.push(key);
                recipients.names.push(name);
            }
        }
        Ok(recipients)
    }

    /// These recipients and more.
    #[must_use]
    pub fn with(&self, more: &Recipients) -> Self {
        let mut all = self.clone();
        for (key, name) in more.keys.iter().zip(&more.names) {
            if !all.names.contains(name) {
                all.keys.push(key.clone());
                all.names.push(name.clone());
            }
        }
        all
    }

    /// The text forms, without comments.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Starts an age file: its header and nonce are written to `output` at once.
    pub(crate) fn seal<W: Write>(&self, output: W) -> io::Result<age::stream::StreamWriter<W>> {
        let keys = self.keys.iter().map(|key| match key {
            Recipient::Native(key) => key as &dyn age::Recipient,
            Recipient::Ssh(key) => key as &dyn age::Recipient,
        });
        age::Encryptor::with_recipients(keys).map_err(io::Error::other)?.wrap_output(output)
    }
}

/// Private keys that open objects.
pub struct Identities {
    keys: Vec<Box<dyn age::Identity + Send + Sync>>,
    recipients: Vec<String>,
}

/// Why an identity file was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidIdentity {
    /// It holds no key.
    #[error("it holds no age identity (AGE-SECRET-KEY-1...) and no OpenSSH private key")]
    Empty,
    /// It is protected by a passphrase.
    #[error("it is protected by a passphrase")]
    Encrypted,
    /// It holds a key of another kind.
    #[error("it holds a key that age cannot use: {0}")]
    Unsupported(String),
}

impl Identities {
    /// Reads an identity file: age identities, one a line, or one OpenSSH private key.
    pub fn parse(text: &str) -> Result<Self, InvalidIdentity> {
        if text.starts_with("age-encryption.org/") || text.contains("BEGIN AGE ENCRYPTED FILE") {
            return Err(InvalidIdentity::Encrypted);
        }
        if text.contains("PRIVATE KEY-----") {
            return Identities::parse_ssh(text);
        }
        let mut identities = Identities { keys: Vec::new(), recipients: Vec::new() };
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let key: age::x25519::Identity = line
                .parse()
                .map_err(|_| InvalidIdentity::Unsupported("a line that is no AGE-SECRET-KEY-1...".to_owned()))?;
            identities.recipients.push(key.to_public().to_string());
            identities.keys.push(Box::new(key));
        }
        if identities.keys.is_empty() { Err(InvalidIdentity::Empty) } else { Ok(identities) }
    }

    fn parse_ssh(text: &str) -> Result<Self, InvalidIdentity> {
        let identity = age::ssh::Identity::from_buffer(io::Cursor::new(text.as_bytes()), None)
            .map_err(|error| InvalidIdentity::Unsupported(error.to_string()))?;
        match &identity {
            age::ssh::Identity::Unencrypted(_) => {}
            age::ssh::Identity::Encrypted(_) => return Err(InvalidIdentity::Encrypted),
            age::ssh::Identity::Unsupported(_) => {
                return Err(InvalidIdentity::Unsupported("an OpenSSH key of an unsupported type".to_owned()));
            }
        }
        let recipients = age::ssh::Recipient::try_from(identity.clone()).map(|key| vec![key.to_string()]);
        Ok(Identities { keys: vec![Box::new(identity)], recipients: recipients.unwrap_or_default() })
    }

    /// The recipients that these identities belong to, in their text forms.
    pub fn recipients(&self) -> &[String] {
        &self.recipients
    }

    /// Each of these identities by itself, with the recipient that it belongs to. One whose recipient is not known is
    /// left out.
    pub fn each(self) -> Vec<(String, Identities)> {
        let pairs = self.recipients.into_iter().zip(self.keys);
        pairs.map(|(name, key)| (name.clone(), Identities { keys: vec![key], recipients: vec![name] })).collect()
    }

    pub(crate) fn open<R: Read>(&self, sealed: R) -> Result<age::stream::StreamReader<R>, FormatError> {
        let decryptor = age::Decryptor::new(sealed).map_err(FormatError::damaged)?;
        let keys = self.keys.iter().map(|key| &**key as &dyn age::Identity);
        decryptor.decrypt(keys).map_err(|error| match error {
            age::DecryptError::NoMatchingKeys => FormatError::NoMatchingKey,
            other => FormatError::damaged(other),
        })
    }
}

/// A new native identity as (file text, recipient).
///
/// Randomness comes from the operating system through the age library.
pub fn new_identity(created: &str) -> (String, String) {
    let identity = age::x25519::Identity::generate();
    let recipient = identity.to_public().to_string();
    let secret = {
        use age::secrecy::ExposeSecret;
        identity.to_string().expose_secret().to_owned()
    };
    (format!("# created: {created}\n# public key: {recipient}\n{secret}\n"), recipient)
}

/// A writer that keeps what it is given and its SHA-256.
pub(crate) struct Hashed {
    pub(crate) bytes: Vec<u8>,
    hasher: sha2::Sha256,
}

impl Hashed {
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Hashed { bytes: Vec::with_capacity(capacity), hasher: sha2::Sha256::new() }
    }

    pub(crate) fn finish(self) -> SealedObject {
        SealedObject { sha256: Sha256(self.hasher.finalize().into()), bytes: self.bytes.into() }
    }
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hasher.update(bytes);
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A sealed object, ready for the stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedObject {
    /// The age file.
    pub bytes: bytes::Bytes,
    /// SHA-256 of it.
    pub sha256: Sha256,
}

impl SealedObject {
    /// Clear bytes as an object.
    pub fn clear(bytes: Vec<u8>) -> Self {
        SealedObject { sha256: super::sha256(&bytes), bytes: bytes.into() }
    }

    /// Bytes of the stored object.
    pub fn size(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// Compresses and seals a small object.
pub fn seal_small(recipients: &Recipients, raw: &[u8]) -> SealedObject {
    let compressed = zstd::bulk::compress(raw, 3).expect("compressing in memory does not fail");
    let output = Hashed::with_capacity(compressed.len() + 1024);
    let mut writer = recipients.seal(output).expect("sealing in memory does not fail");
    writer.write_all(&compressed).expect("sealing in memory does not fail");
    writer.finish().expect("sealing in memory does not fail").finish()
}

/// Compresses and seals what is written: an object whose raw form is too long to be held.
pub fn seal_written(recipients: &Recipients, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> SealedObject {
    let sealed = || -> io::Result<SealedObject> {
        let mut compressed = zstd::stream::Encoder::new(recipients.seal(Hashed::with_capacity(1024))?, 3)?;
        write(&mut compressed)?;
        Ok(compressed.finish()?.finish()?.finish())
    };
    sealed().expect("sealing in memory does not fail")
}

/// The most bytes that the header of an age file may have: room for some ninety RSA keys, six hundred native ones.
pub const HEADER_BYTES_MAX: usize = 64 * 1024;

/// Refuses a header without end: age reads a long one again and again, for minutes.
pub(crate) fn check_header_ends(start: &[u8]) -> Result<(), FormatError> {
    const LAST_LINE: &[u8] = b"\n--- ";
    let start = &start[..start.len().min(HEADER_BYTES_MAX)];
    if start.windows(LAST_LINE.len()).any(|window| window == LAST_LINE) {
        Ok(())
    } else {
        Err(FormatError::damaged("it does not begin with the header of an age file"))
    }
}

/// The content of a small object, of which one byte more than `max_raw` can be read.
fn open_limited<'s>(
    identities: &Identities,
    sealed: &'s [u8],
    max_raw: u64,
) -> Result<impl Read + use<'s>, FormatError> {
    check_header_ends(sealed)?;
    decompressed(identities.open(sealed)?, max_raw)
}

fn decompressed<R: Read>(
    reader: age::stream::StreamReader<R>,
    max_raw: u64,
) -> Result<impl Read + use<R>, FormatError> {
    let mut decoder = zstd::stream::read::Decoder::new(reader).map_err(FormatError::damaged)?;
    // A small object needs no window larger than itself.
    decoder.window_log_max(27).map_err(FormatError::damaged)?;
    Ok(decoder.take(max_raw + 1))
}

/// The same of an object that is not held in memory.
pub(super) fn open_stream<R: Read>(
    identities: &Identities,
    mut sealed: R,
    max_raw: u64,
) -> Result<impl Read + use<R>, FormatError> {
    let mut start = Vec::new();
    sealed.by_ref().take(HEADER_BYTES_MAX as u64).read_to_end(&mut start).map_err(FormatError::damaged)?;
    check_header_ends(&start)?;
    decompressed(identities.open(io::Cursor::new(start).chain(sealed))?, max_raw)
}

fn too_large(max_raw: u64) -> FormatError {
    FormatError::damaged(format_args!("it holds more than {max_raw} bytes"))
}

/// Opens and decompresses a small object; at most `max_raw` bytes come out.
pub fn open_small(identities: &Identities, sealed: &[u8], max_raw: u64) -> Result<Vec<u8>, FormatError> {
    let mut raw = Vec::new();
    open_limited(identities, sealed, max_raw)?.read_to_end(&mut raw).map_err(FormatError::damaged)?;
    if raw.len() as u64 > max_raw { Err(too_large(max_raw)) } else { Ok(raw) }
}

/// Opens an object of lines, none of which is longer than `max_line`, and hands them over one by one, without their
/// ends.
pub fn open_lines(
    identities: &Identities,
    sealed: &[u8],
    max_raw: u64,
    max_line: u64,
    mut take: impl FnMut(&[u8]) -> Result<(), FormatError>,
) -> Result<(), FormatError> {
    let mut lines = BufReader::new(open_limited(identities, sealed, max_raw)?);
    let mut line = Vec::new();
    let mut raw = 0;
    loop {
        line.clear();
        let read = (&mut lines).take(max_line + 1).read_until(b'\n', &mut line).map_err(FormatError::damaged)?;
        raw += read as u64;
        if raw > max_raw {
            return Err(too_large(max_raw));
        }
        match line.pop() {
            None => return Ok(()),
            Some(b'\n') => take(&line)?,
            Some(_) if read as u64 > max_line => {
                return Err(FormatError::damaged(format_args!("it has a line of more than {max_line} bytes")));
            }
            Some(_) => return Err(FormatError::damaged("its last line has no end")),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::format) fn pair() -> (Recipients, Identities) {
        let (text, recipient) = new_identity("now");
        (Recipients::parse(&[recipient]).unwrap(), Identities::parse(&text).unwrap())
    }

    #[test]
    fn small_objects_round_trip() {
        let (recipients, identities) = pair();
        let (_, strangers) = pair();
        let raw = b"ledger".repeat(1000);
        let sealed = seal_small(&recipients, &raw);
        assert_eq!(sealed.sha256, super::super::sha256(&sealed.bytes));
        assert_eq!(open_small(&identities, &sealed.bytes, 6000).unwrap(), raw);
        assert!(matches!(open_small(&identities, &sealed.bytes, 5999), Err(FormatError::Damaged(_))));
        assert!(matches!(open_small(&strangers, &sealed.bytes, 6000), Err(FormatError::NoMatchingKey)));
    }

    #[test]
    fn every_flipped_byte_is_noticed() {
        let (recipients, identities) = pair();
        let sealed = seal_small(&recipients, b"who holds how much money");
        for at in 0..sealed.bytes.len() {
            let mut bytes = sealed.bytes.to_vec();
            bytes[at] ^= 1;
            assert!(open_small(&identities, &bytes, 1000).is_err(), "byte {at}");
            assert!(open_small(&identities, &sealed.bytes[..at], 1000).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn headers_without_end_are_refused_at_once() {
        let (_, identities) = pair();
        let endless = format!("age-encryption.org/v1\n{}", "-> X25519 AAAA\nAAAA\n".repeat(50_000));
        assert!(matches!(open_small(&identities, endless.as_bytes(), 1000), Err(FormatError::Damaged(_))));
    }

    #[test]
    fn recipients_and_identities_are_checked() {
        let (recipients, identities) = pair();
        assert_eq!(recipients.names(), identities.recipients());
        assert_eq!(recipients.with(&recipients).names().len(), 1);
        for bad in ["", "age1", "AGE-SECRET-KEY-1", "ssh-ed25519", "ssh-ed25519 AAAA", "age1\u{e9}"] {
            assert!(Recipients::parse(&[bad]).is_err(), "{bad}");
        }
        let (secret, _) = new_identity("now");
        for secret in [&secret, &secret.to_lowercase(), secret.lines().last().unwrap()] {
            let message = Recipients::parse(&[secret]).err().unwrap().to_string();
            assert!(!message.to_uppercase().contains("KEY-1"), "{message}");
        }
        assert_eq!(Identities::parse("# nothing\n").err(), Some(InvalidIdentity::Empty));
        assert_eq!(Identities::parse("age-encryption.org/v1\n-> scrypt").err(), Some(InvalidIdentity::Encrypted));
        assert!(matches!(Identities::parse("hello").err(), Some(InvalidIdentity::Unsupported(_))));
    }
}
