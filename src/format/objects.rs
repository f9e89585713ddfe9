//! `objects.json`: the clear list of a run's objects with sizes and SHA-256. Signed inventories name its digest.

use super::{FormatError, digests, document_bytes, facts, index, manifest, pack::PACK_SEALED_BYTES, parse_document};
use crate::core::id::{RepositoryId, RunId, Sha256, SourceName};
use serde::{Deserialize, Serialize};

/// The value of `format`.
pub const FORMAT: &str = "recoup-objects/1";
/// The most bytes that a reader accepts.
pub const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// The objects of one run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunObjects {
    /// [`FORMAT`].
    pub format: String,
    /// The repository they belong to.
    pub repository: RepositoryId,
    /// The source they are of.
    pub source: SourceName,
    /// The run that wrote them.
    pub run: RunId,
    /// Who can open packs and digests. Manifest parts and the index are also sealed to the host's catalogue key.
    pub recipients: Vec<String>,
    /// The objects, sorted by name.
    pub objects: Vec<RunObject>,
}

/// One object of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunObject {
    /// Name in the run's folder.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the stored bytes.
    pub sha256: Sha256,
}

/// What an object of a run is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectKind {
    /// `<n>.age`
    Pack(u32),
    /// `m<n>.age`
    ManifestPart(u32),
    /// `index.age`
    Index,
    /// `digests.age`, then `digests-<n>.age`
    Digests(u32),
    /// `facts.age`
    Facts,
}

impl ObjectKind {
    /// The kind that a name says, if it is the name of any.
    pub fn of(name: &str) -> Option<Self> {
        let stem = name.strip_suffix(".age")?;
        let number = |digits: &str| -> Option<u32> {
            let canonical =
                digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
            if canonical { digits.parse().ok() } else { None }
        };
        if stem == "index" {
            Some(ObjectKind::Index)
        } else if stem == "facts" {
            Some(ObjectKind::Facts)
        } else if stem == "digests" {
            Some(ObjectKind::Digests(0))
        } else if let Some(digits) = stem.strip_prefix("digests-") {
            number(digits).filter(|part| *part > 0).map(ObjectKind::Digests)
        } else if let Some(digits) = stem.strip_prefix('m') {
            number(digits).map(ObjectKind::ManifestPart)
        } else {
            number(stem).map(ObjectKind::Pack)
        }
    }

    /// The most bytes that an object of this kind has. Readers hold an object whole, so a list must not name larger ones.
    pub fn max_bytes(self) -> u64 {
        // What compression and sealing may add at worst.
        const ADDED: u64 = 1024 * 1024;
        match self {
            ObjectKind::Pack(_) => 2 * PACK_SEALED_BYTES as u64,
            ObjectKind::ManifestPart(_) => manifest::MAX_RAW_BYTES + ADDED,
            ObjectKind::Index => index::MAX_RAW_BYTES + ADDED,
            ObjectKind::Digests(_) => digests::MAX_RAW_BYTES + ADDED,
            ObjectKind::Facts => facts::MAX_RAW_BYTES + ADDED,
        }
    }

    /// The name of an object of this kind.
    pub fn name(self) -> String {
        match self {
            ObjectKind::Pack(number) => format!("{number}.age"),
            ObjectKind::ManifestPart(number) => format!("m{number}.age"),
            ObjectKind::Index => "index.age".to_owned(),
            ObjectKind::Digests(0) => "digests.age".to_owned(),
            ObjectKind::Digests(number) => format!("digests-{number}.age"),
            ObjectKind::Facts => "facts.age".to_owned(),
        }
    }
}

impl RunObjects {
    /// The bytes of `objects.json`.
    pub fn to_bytes(&self) -> Vec<u8> {
        document_bytes(self)
    }

    /// Reads and checks `objects.json`.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let list = parse_document(bytes, FORMAT, |list: &RunObjects| &list.format, |_| None)?;
        for object in &list.objects {
            let Some(kind) = ObjectKind::of(&object.name) else {
                let name: String = object.name.chars().take(80).collect();
                return Err(FormatError::damaged(format_args!("it lists {name:?}, which is no name of an object")));
            };
            if object.size > kind.max_bytes() {
                let RunObject { name, size, .. } = object;
                return Err(FormatError::damaged(format_args!("it lists {name} with {size} bytes, more than any has")));
            }
        }
        if !list.objects.windows(2).all(|pair| pair[0].name < pair[1].name) {
            return Err(FormatError::damaged("its objects are not sorted, or one is named twice"));
        }
        Ok(list)
    }

    /// The object of a name.
    pub fn find(&self, name: &str) -> Option<&RunObject> {
        self.objects.binary_search_by(|object| object.name.as_str().cmp(name)).ok().map(|at| &self.objects[at])
    }

    /// How many packs there are.
    pub fn packs(&self) -> u64 {
        let is_pack = |object: &&RunObject| matches!(ObjectKind::of(&object.name), Some(ObjectKind::Pack(_)));
        self.objects.iter().filter(is_pack).count() as u64
    }

    /// The pack of a number.
    pub fn pack(&self, number: u32) -> Option<&RunObject> {
        self.find(&ObjectKind::Pack(number).name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (name, kind) in [
            ("0.age", ObjectKind::Pack(0)),
            ("17.age", ObjectKind::Pack(17)),
            ("m2.age", ObjectKind::ManifestPart(2)),
            ("index.age", ObjectKind::Index),
            ("digests.age", ObjectKind::Digests(0)),
            ("digests-3.age", ObjectKind::Digests(3)),
            ("facts.age", ObjectKind::Facts),
        ] {
            assert_eq!(ObjectKind::of(name), Some(kind));
            assert_eq!(kind.name(), name);
        }
        for bad in
            ["", ".age", "01.age", "m.age", "../0.age", "digests-0.age", "digests-.age", "4294967296.age", "x.age", "0"]
        {
            assert_eq!(ObjectKind::of(bad), None, "{bad}");
        }
    }

    #[test]
    fn lists_are_checked() {
        let object = |name: &str| RunObject { name: name.into(), size: 1, sha256: Sha256([1; 32]) };
        let mut list = RunObjects {
            format: FORMAT.into(),
            repository: RunId::from_random([0; 16]),
            source: "ledger".parse().unwrap(),
            run: RunId::from_random([1; 16]),
            recipients: vec!["age1x".into()],
            objects: vec![object("0.age"), object("index.age")],
        };
        assert_eq!(RunObjects::parse(&list.to_bytes()).unwrap(), list);
        assert_eq!(list.pack(0), Some(&list.objects[0]));
        list.objects.reverse();
        assert!(RunObjects::parse(&list.to_bytes()).is_err());
        list.objects = vec![RunObject { size: 1 << 40, ..object("0.age") }];
        assert!(RunObjects::parse(&list.to_bytes()).is_err());
        list.objects = vec![object("../x.age")];
        assert!(RunObjects::parse(&list.to_bytes()).is_err());
        list.format = "recoup-objects/2".into();
        assert!(matches!(RunObjects::parse(&list.to_bytes()), Err(FormatError::Newer { .. })));
        list.format = "else".into();
        assert!(matches!(RunObjects::parse(&list.to_bytes()), Err(FormatError::Damaged(_))));
    }
}
