//! Vouches: what a revoked signer has signed and is still good, byte for byte. Nothing later of it is.

use super::{
    id::{RepositoryId, RunId, Sha256},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The value of `format` in every vouch that this version reads and writes.
pub const FORMAT: &str = "recoup-vouch/1";

/// The most objects that one vouch names; where there are more, several share them.
pub const OBJECTS_MAX: usize = 200_000;

/// The most other vouches that belong to one revocation.
const OTHERS_MAX: usize = 10_000;

/// The most bytes of a fingerprint.
const FINGERPRINT_BYTES_MAX: usize = 100;

/// A vouch's id.
pub type VouchId = RunId;

/// What a trusted signer vouches for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vouch {
    /// [`FORMAT`].
    pub format: String,
    /// The repository it belongs to.
    pub repository: RepositoryId,
    /// Its id.
    pub vouch: VouchId,
    /// Who vouches, as the SHA-256 fingerprint of the key.
    pub signer: String,
    /// Who was revoked.
    pub revoked: String,
    /// When it was made, by the clock of who made it.
    pub created_at: Timestamp,
    /// The other vouches of the same revocation, where one does not hold all of it: without them it is not whole.
    #[serde(skip_serializing_if = "BTreeSet::is_empty", default)]
    pub others: BTreeSet<VouchId>,
    /// SHA-256 of each signed object that is still good, by its full name.
    pub objects: BTreeMap<String, Sha256>,
}

impl Vouch {
    /// Why the vouch cannot be what it claims to be, if so. Its signature and its place are other matters.
    pub fn contradiction(&self) -> Option<&'static str> {
        let is_fingerprint =
            |text: &str| text.len() <= FINGERPRINT_BYTES_MAX && text.bytes().all(|byte| byte.is_ascii_graphic());
        if self.format != FORMAT {
            Some("its format is not the one this version reads")
        } else if !is_fingerprint(&self.signer) || !is_fingerprint(&self.revoked) {
            Some("one of its fingerprints is none")
        } else if self.signer == self.revoked {
            Some("a signer cannot vouch for itself")
        } else if self.others.contains(&self.vouch) || self.others.len() > OTHERS_MAX {
            Some("the others that belong to it are none")
        } else if self.objects.len() > OBJECTS_MAX {
            Some("it names more objects than any")
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contradictions() {
        let vouch = Vouch {
            format: FORMAT.to_owned(),
            repository: "aaaaaaaaaaaaaaaa".parse().unwrap(),
            vouch: "bbbbbbbbbbbbbbbb".parse().unwrap(),
            signer: "SHA256:new".to_owned(),
            revoked: "SHA256:old".to_owned(),
            created_at: "2026-11-22T09:15:00Z".parse().unwrap(),
            others: BTreeSet::new(),
            objects: BTreeMap::new(),
        };
        assert_eq!(vouch.contradiction(), None);
        let changes: [fn(&mut Vouch); 5] = [
            |vouch| vouch.format = "recoup-vouch/2".to_owned(),
            |vouch| vouch.revoked = "SHA256:new".to_owned(),
            |vouch| vouch.signer = "a\u{1b}[31m".to_owned(),
            |vouch| vouch.revoked = "x".repeat(101),
            |vouch| vouch.others = BTreeSet::from([vouch.vouch]),
        ];
        for (at, change) in changes.iter().enumerate() {
            let mut changed = vouch.clone();
            change(&mut changed);
            assert!(changed.contradiction().is_some(), "change {at}");
        }
    }
}
