//! Who may sign what: the `allowed_signers` text of `ssh-keygen -Y verify`, read as OpenSSH reads it.
//!
//! Two of OpenSSH's options are refused rather than ignored: lifetimes (SSHSIG carries no time, so they would be
//! judged by whatever moment somebody claims) and certificate authorities.

use super::signature::{SignatureError, SignerFingerprint, Unchecked};
use ssh_key::{
    PublicKey,
    public::{Ed25519PublicKey, KeyData},
};

/// The most bytes of signers that are read.
pub const MAX_SIGNERS_BYTES: usize = 1024 * 1024;

/// OpenSSH matches no pattern as long as this, and then nothing in its list.
const MAX_PATTERN_BYTES: usize = 1023;

/// The key types of OpenSSH that are known and not accepted.
const OTHER_KEY_TYPES: &[&str] =
    &["ssh-rsa", "ssh-dss", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-", "rsa-sha2-", "ssh-xmss"];

/// Why a text of signers was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the allowed signers: {why}")]
pub struct SignersError {
    /// Which line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub why: String,
}

/// One line: this key, as what matches these principals, in what matches these namespaces.
#[derive(Clone, Debug)]
struct Signer {
    principals: String,
    namespaces: Option<String>,
    key: Ed25519PublicKey,
}

/// The signers that are trusted, and what each may sign.
#[derive(Clone, Debug, Default)]
pub struct Signers {
    signers: Vec<Signer>,
    remarks: Vec<String>,
}

impl Signers {
    /// Reads an `allowed_signers` text. A line that cannot be understood refuses all of it: skipping it could only
    /// be noticed when a restore fails.
    pub fn parse(text: &str) -> Result<Self, SignersError> {
        let mut signers = Signers::default();
        if text.len() > MAX_SIGNERS_BYTES {
            return Err(SignersError { line: 1, why: format!("more than {MAX_SIGNERS_BYTES} bytes") });
        }
        for (at, line) in text.lines().enumerate() {
            let line = line.trim_matches([' ', '\t', '\r']);
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match parse_line(line).map_err(|why| SignersError { line: at + 1, why })? {
                Line::Signer(signer) => signers.signers.push(signer),
                Line::Skipped(why) => signers.remarks.push(format!("line {} of the allowed signers: {why}", at + 1)),
            }
        }
        Ok(signers)
    }

    /// What was skipped, and why; for people.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// Whether nobody is trusted.
    pub fn is_empty(&self) -> bool {
        self.signers.is_empty()
    }

    /// Whether all of them sign for one repository only: what stands after the `@` of their principals.
    pub fn are_of_one_repository(&self) -> bool {
        let patterns = self.signers.iter().flat_map(|signer| signer.principals.split(','));
        let mut repositories =
            patterns.map(|pattern| pattern.rsplit_once('@').map_or("*", |(_, repository)| repository));
        let Some(first) = repositories.next() else { return true };
        !first.contains(['*', '?']) && repositories.all(|repository| repository == first)
    }

    /// The fingerprints of all trusted keys, in the order of the lines, each once.
    pub fn fingerprints(&self) -> Vec<SignerFingerprint> {
        let mut seen = Vec::new();
        for fingerprint in self.signers.iter().map(|signer| SignerFingerprint::of(&signer.key)) {
            if !seen.contains(&fingerprint) {
                seen.push(fingerprint);
            }
        }
        seen
    }

    /// Checks that a trusted signer signed exactly `bytes`, in `namespace`, and may do so as `principal`.
    pub fn verify(
        &self,
        bytes: &[u8],
        signature_pem: &str,
        namespace: &str,
        principal: &str,
    ) -> Result<SignerFingerprint, SignatureError> {
        let signature = Unchecked::parse(signature_pem)?;
        if signature.namespace() != namespace {
            let found = signature.namespace().chars().take(80).collect();
            return Err(SignatureError::Namespace { found, wanted: namespace.to_owned() });
        }
        let signer = SignerFingerprint::of(signature.key());
        self.permit(signature.key(), &signer, namespace, principal)?;
        if signature.matches(bytes, namespace) { Ok(signer) } else { Err(SignatureError::Mismatch(signer)) }
    }

    /// Whether a signature claims to be of a key that may sign in the namespace as the principal. Nothing is proven by
    /// that.
    pub fn permits(&self, signature_pem: &str, namespace: &str, principal: &str) -> Result<(), SignatureError> {
        let signature = Unchecked::parse(signature_pem)?;
        if signature.namespace() != namespace {
            let found = signature.namespace().chars().take(80).collect();
            return Err(SignatureError::Namespace { found, wanted: namespace.to_owned() });
        }
        self.permit(signature.key(), &SignerFingerprint::of(signature.key()), namespace, principal)
    }

    /// What the lines let each key do: fingerprint, principals and namespaces, in their order.
    pub fn lines(&self) -> impl Iterator<Item = (SignerFingerprint, &str, Option<&str>)> {
        self.signers
            .iter()
            .map(|line| (SignerFingerprint::of(&line.key), line.principals.as_str(), line.namespaces.as_deref()))
    }

    /// Whether the key of a fingerprint may sign in the namespace as the principal.
    pub fn may(&self, signer: &str, namespace: &str, principal: &str) -> bool {
        let mut keys = self.signers.iter().map(|line| (line.key, SignerFingerprint::of(&line.key)));
        let found = keys.find(|(_, fingerprint)| fingerprint.as_str() == signer);
        found.is_some_and(|(key, fingerprint)| self.permit(&key, &fingerprint, namespace, principal).is_ok())
    }

    /// All of them but one.
    #[must_use]
    pub fn without(&self, signer: &str) -> Self {
        let mut others = self.clone();
        others.signers.retain(|line| SignerFingerprint::of(&line.key).as_str() != signer);
        others
    }

    /// Whether some line lets the key sign in the namespace as the principal.
    fn permit(
        &self,
        key: &Ed25519PublicKey,
        signer: &SignerFingerprint,
        namespace: &str,
        principal: &str,
    ) -> Result<(), SignatureError> {
        let mut lines = self.signers.iter().filter(|line| line.key == *key).peekable();
        if lines.peek().is_none() {
            return Err(SignatureError::UnknownSigner(signer.clone()));
        }
        let mut lines = lines.filter(|line| matches_list(principal, &line.principals)).peekable();
        if lines.peek().is_none() {
            return Err(SignatureError::Principal { signer: signer.clone(), principal: principal.to_owned() });
        }
        let in_namespace =
            |line: &Signer| line.namespaces.as_ref().is_none_or(|patterns| matches_list(namespace, patterns));
        if lines.any(in_namespace) {
            return Ok(());
        }
        let (principal, namespace) = (principal.to_owned(), namespace.to_owned());
        Err(SignatureError::Role { signer: signer.clone(), principal, namespace })
    }
}

/// Who signed exactly `bytes` in `namespace`, trusted or not.
pub fn signed_by(bytes: &[u8], signature_pem: &str, namespace: &str) -> Result<SignerFingerprint, SignatureError> {
    let signature = Unchecked::parse(signature_pem)?;
    let signer = SignerFingerprint::of(signature.key());
    if signature.namespace() == namespace && signature.matches(bytes, namespace) {
        Ok(signer)
    } else {
        Err(SignatureError::Mismatch(signer))
    }
}

/// The key of a `.pub` file, as the line of one.
pub fn public_key(text: &str) -> Result<(SignerFingerprint, String), String> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return Err("it does not hold exactly one public key".to_owned());
    };
    if line.contains("PRIVATE KEY") {
        return Err("it is a private key; name the file that ends in .pub".to_owned());
    }
    let found = first_word(line);
    if found != "ssh-ed25519" {
        return Err(if is_key_type(found) {
            format!("it holds a key of type {}; only ssh-ed25519 is used", shortened(found))
        } else {
            "it is no OpenSSH public key (ssh-ed25519 AAAA...)".to_owned()
        });
    }
    if !line.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) || line.len() > MAX_PATTERN_BYTES {
        return Err("it holds more than a key and a comment of printable ASCII".to_owned());
    }
    match parse_line(&format!("* {line}"))? {
        Line::Signer(signer) => Ok((SignerFingerprint::of(&signer.key), line.to_owned())),
        Line::Skipped(why) => Err(why),
    }
}

/// The text of a file of signers without the lines of one of them; everything else stays as it is.
pub fn text_without(text: &str, signer: &str) -> String {
    let is_of_signer = |line: &str| {
        let line = line.trim_matches([' ', '\t', '\r', '\n']);
        let is_comment = line.is_empty() || line.starts_with('#');
        let parsed = if is_comment { None } else { parse_line(line).ok() };
        matches!(parsed, Some(Line::Signer(found)) if SignerFingerprint::of(&found.key).as_str() == signer)
    };
    text.split_inclusive('\n').filter(|line| !is_of_signer(line)).collect()
}

enum Line {
    Signer(Signer),
    Skipped(String),
}

/// Reads `principals [options] keytype base64 [comment]`.
fn parse_line(line: &str) -> Result<Line, String> {
    let (principals, rest) = take_principals(line)?;
    let (namespaces, rest) = if is_key_type(first_word(rest)) {
        (None, rest)
    } else {
        let (options, rest) = take_options(rest)?;
        (parse_options(options)?, rest)
    };
    let mut words = rest.split([' ', '\t']).filter(|word| !word.is_empty());
    let key_type = words.next().unwrap_or_default();
    if !is_key_type(key_type) {
        return Err(format!("{:?} is neither an option nor a key type", shortened(key_type)));
    }
    let base64 = words.next().ok_or("the key itself is missing")?;
    if key_type != "ssh-ed25519" {
        return Ok(Line::Skipped(format!("a key of type {} is not used; only ssh-ed25519 is", shortened(key_type))));
    }
    let key = PublicKey::from_openssh(&format!("{key_type} {base64}")).map_err(|_| "the key is damaged".to_owned())?;
    match key.key_data() {
        KeyData::Ed25519(key) => Ok(Line::Signer(Signer { principals: principals.to_owned(), namespaces, key: *key })),
        _ => Err("the key is of another type than the line says".to_owned()),
    }
}

/// Splits off the principals, which may stand in double quotes.
fn take_principals(line: &str) -> Result<(&str, &str), String> {
    let (principals, rest) = match line.strip_prefix('"') {
        Some(quoted) => quoted.split_once('"').ok_or("a double quote is not closed")?,
        None => line.split_once([' ', '\t']).unwrap_or((line, "")),
    };
    let rest = rest.trim_start_matches([' ', '\t']);
    if principals.is_empty() {
        return Err("the principals are missing".to_owned());
    }
    if rest.is_empty() {
        return Err("the key is missing".to_owned());
    }
    Ok((principals, rest))
}

/// Splits off the options: up to the first blank outside double quotes.
fn take_options(text: &str) -> Result<(&str, &str), String> {
    let mut quoted = false;
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b' ' | b'\t' if !quoted => return Ok((&text[..at], text[at..].trim_start_matches([' ', '\t']))),
            _ => {}
        }
    }
    Err(if quoted { "a double quote is not closed" } else { "the key is missing" }.to_owned())
}

/// Reads the options; returns the patterns of namespaces.
fn parse_options(mut text: &str) -> Result<Option<String>, String> {
    let mut namespaces = None;
    loop {
        let end = text.find([',', '=']).unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        match name.to_ascii_lowercase().as_str() {
            "namespaces" => {}
            "valid-after" | "valid-before" => {
                return Err(format!("{name} is not supported: a signature carries no time to judge it by"));
            }
            "cert-authority" => return Err("cert-authority is not supported: name the key itself".to_owned()),
            _ => return Err(format!("{:?} is neither an option nor a key type", shortened(name))),
        }
        if namespaces.is_some() {
            return Err("namespaces is given twice".to_owned());
        }
        let (value, rest) = take_quoted(rest.strip_prefix('=').ok_or("namespaces needs a value")?)?;
        namespaces = Some(value);
        if rest.is_empty() {
            return Ok(namespaces);
        }
        text = rest.strip_prefix(',').ok_or("options are separated by commas")?;
    }
}

/// Reads a value in double quotes, in which `\"` stands for a double quote.
fn take_quoted(text: &str) -> Result<(String, &str), String> {
    let body = text.strip_prefix('"').ok_or("the value of namespaces must stand in double quotes")?;
    let mut value = String::new();
    let mut characters = body.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Ok((value, &body[at + 1..])),
            '\\' if characters.peek().is_some_and(|(_, next)| *next == '"') => {
                characters.next();
                value.push('"');
            }
            other => value.push(other),
        }
    }
    Err("a double quote is not closed".to_owned())
}

fn first_word(text: &str) -> &str {
    text.split([' ', '\t']).next().unwrap_or_default()
}

fn is_key_type(word: &str) -> bool {
    word == "ssh-ed25519" || OTHER_KEY_TYPES.iter().any(|known| word.starts_with(known))
}

fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

/// Whether a name matches a list of patterns separated by commas, of which those with `!` veto.
fn matches_list(name: &str, patterns: &str) -> bool {
    let mut found = false;
    for pattern in patterns.split(',') {
        let (negated, pattern) = match pattern.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, pattern),
        };
        if pattern.len() >= MAX_PATTERN_BYTES {
            return false;
        }
        if matches_pattern(name.as_bytes(), pattern.as_bytes()) {
            if negated {
                return false;
            }
            found = true;
        }
    }
    found
}

/// Whether a name matches a pattern in which `*` stands for any bytes and `?` for one.
///
/// Goes back only to the last `*`, so that hostile patterns cost at most the product of the lengths.
fn matches_pattern(name: &[u8], pattern: &[u8]) -> bool {
    let (mut at, mut in_pattern) = (0, 0);
    let mut last_star: Option<(usize, usize)> = None;
    while at < name.len() {
        match pattern.get(in_pattern) {
            Some(b'*') => {
                last_star = Some((in_pattern, at));
                in_pattern += 1;
            }
            Some(byte) if *byte == b'?' || *byte == name[at] => {
                at += 1;
                in_pattern += 1;
            }
            _ => match last_star {
                Some((star, from)) => {
                    last_star = Some((star, from + 1));
                    in_pattern = star + 1;
                    at = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[in_pattern..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
#[path = "signers_tests.rs"]
mod tests;
