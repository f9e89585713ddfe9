//! Hosts with a configuration of their own, whose keys and recipients change: what `recoup key` edits is on disk.

use super::{
    Machine, Process, Site,
    content::{Database, Files},
    keys, live,
};
use recoup::{
    config::{Settings, load},
    core::{
        failure::Failure,
        id::{RepositoryId, SnapshotId},
        result::KeysResult,
        target::Target,
    },
    format::{
        FormatError,
        seal::{Identities, Recipients, new_identity, open_small},
        signature::{self, HostKey},
        signers::Signers,
    },
    ops::key::{self, Keys, RevokeRequest, SignerRequest},
};
use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    sync::{Arc, OnceLock},
};

/// A custodian: the recipient, and the identity that opens what is sealed to it.
pub(crate) struct Custodian {
    pub(crate) recipient: String,
    text: String,
    identities: Arc<Identities>,
}

impl Custodian {
    fn new() -> Self {
        let (text, recipient) = new_identity("now");
        let identities = Arc::new(Identities::parse(&text).unwrap());
        Custodian { recipient, text, identities }
    }

    /// Whether an object opens for it; nothing else may be wrong with it.
    pub(crate) fn opens(&self, sealed: &[u8]) -> bool {
        opens(&self.identities, sealed)
    }
}

fn opens(identities: &Identities, sealed: &[u8]) -> bool {
    match open_small(identities, sealed, 64 * 1024 * 1024) {
        Ok(_) => true,
        Err(FormatError::NoMatchingKey) => false,
        Err(error) => panic!("{error}"),
    }
}

/// Whether an object opens for the key that host `number` has to the structure of its own snapshots.
pub(crate) fn opens_for_host(number: usize, sealed: &[u8]) -> bool {
    opens(&keys().hosts[number].1.identities, sealed)
}

/// The custodians of every simulation.
pub(crate) fn custodians() -> &'static [Custodian] {
    static ALL: OnceLock<Vec<Custodian>> = OnceLock::new();
    ALL.get_or_init(|| (0..4).map(|_| Custodian::new()).collect())
}

/// Signing key number `number`; hosts get new ones in this order.
pub(crate) fn signing_key(number: usize) -> HostKey {
    HostKey::generate([100 + u8::try_from(number).unwrap(); 32], &format!("simulated {number}"))
}

const NAMESPACES: [&str; 6] =
    [signature::INVENTORY, signature::LOG, signature::EVIDENCE, signature::PRUNE, signature::KEYS, signature::REPORT];

/// A host that is configured by files.
pub(crate) struct Keyed {
    pub(crate) machine: Machine,
    files: tempfile::TempDir,
    /// The key that it signs with.
    pub(crate) key: usize,
}

impl Keyed {
    /// A host that signs with key `key` and trusts those of all `trusted`; it seals to the first custodian.
    pub(crate) fn new(number: usize, seed: &str, key: usize, trusted: &[usize]) -> Self {
        let host = Keyed { machine: Machine::new(number, seed), files: tempfile::tempdir().unwrap(), key };
        let principal = signature::role_principal("*", &host.repository());
        let lines = trusted.iter().map(|key| signing_key(*key).signers_line(&principal, &NAMESPACES) + "\n");
        fs::write(host.signers_file(), lines.collect::<String>()).unwrap();
        let stores = super::STORES.map(|name| format!("[[store]]\nname = \"{name}\"\nurl = \"file:///srv/{name}\"\n"));
        let text = format!(
            "[repository]\nid = \"{}\"\n[host]\nstate_dir = \"state\"\nsigning_key = \"key\"\nallowed_signers = \
             \"allowed_signers\"\n[encryption]\nrecipients = [\n    \"{}\",\n]\n{}[[source]]\nname = \"ledger\"\nkind \
             = \"sqlite\"\npath = \"/srv/ledger.db\"\n",
            host.repository(),
            custodians()[0].recipient,
            stores.join("")
        );
        fs::write(host.path("recoup.toml"), text).unwrap();
        host
    }

    /// The same host with a copy of all it has.
    pub(crate) fn fork(&self, seed: &str) -> Self {
        let fork = Keyed { machine: self.machine.fork(seed), files: tempfile::tempdir().unwrap(), key: self.key };
        super::copy_tree(self.files.path(), fork.files.path());
        fork
    }

    fn repository(&self) -> RepositoryId {
        keys().repository
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    fn signers_file(&self) -> PathBuf {
        self.path("allowed_signers")
    }

    fn settings(&self) -> Settings {
        load(&self.path("recoup.toml")).unwrap()
    }

    /// To whom it seals.
    pub(crate) fn recipients(&self) -> BTreeSet<String> {
        self.settings().recipients.into_iter().collect()
    }

    /// Whether its file of signers names a key.
    pub(crate) fn trusts(&self, key: usize) -> bool {
        let signers = Signers::parse(&fs::read_to_string(self.signers_file()).unwrap()).unwrap();
        signers.fingerprints().contains(&signing_key(key).fingerprint())
    }

    /// Somebody takes the lines of a key out of its file of signers by hand.
    pub(crate) fn distrust(&self, key: usize) {
        let public = signing_key(key).public_line();
        let text = fs::read_to_string(self.signers_file()).unwrap();
        let is_other = |line: &&str| !line.contains(public.split(' ').nth(1).unwrap());
        let kept = text.lines().filter(is_other).map(|line| format!("{line}\n"));
        fs::write(self.signers_file(), kept.collect::<String>()).unwrap();
    }

    /// It is set up again: with a new key, and with the signers of another host.
    pub(crate) fn set_up_again(&mut self, key: usize, like: &Keyed) {
        self.key = key;
        fs::copy(like.signers_file(), self.signers_file()).unwrap();
    }

    /// A new process; what it is configured to be, its files say.
    pub(crate) fn process(&self, site: &Site, database: &Database) -> Process {
        let mut process = Process::new(site, &self.machine, database);
        let settings = self.settings();
        process.host.key = Arc::new(signing_key(self.key));
        process.host.recipients = Recipients::parse(&settings.recipients).unwrap();
        process.host.configuration = settings.effective_text();
        process.host.repository.signers = Signers::parse(&fs::read_to_string(self.signers_file()).unwrap()).unwrap();
        process
    }

    fn change(
        &self,
        process: &Process,
        change: impl AsyncFnOnce(&Keys<'_>) -> Result<KeysResult, Failure>,
    ) -> Result<KeysResult, Failure> {
        let settings = self.settings();
        let keys = Keys::open(&process.host, &settings)?;
        live(change(&keys))
    }

    /// `key add`
    pub(crate) fn add(&self, process: &Process, recipient: &str) -> Result<KeysResult, Failure> {
        self.change(process, async |keys| key::add(keys, recipient).await)
    }

    /// `key remove`
    pub(crate) fn remove(&self, process: &Process, recipient: &str) -> Result<KeysResult, Failure> {
        self.change(process, async |keys| key::remove(keys, recipient, Some(recipient)).await)
    }

    /// `key prove`
    pub(crate) fn prove(&self, process: &Process, custodian: &Custodian) -> Result<KeysResult, Failure> {
        let identities = Identities::parse(&custodian.text).unwrap();
        self.change(process, async |keys| key::prove(keys, identities).await)
    }

    /// `key signer add`
    pub(crate) fn add_signer(&self, process: &Process, key: usize) -> Result<KeysResult, Failure> {
        let file = self.path("new.pub");
        fs::write(&file, signing_key(key).public_line() + "\n").unwrap();
        let request = SignerRequest { file, sources: BTreeSet::new(), roles: BTreeSet::new() };
        self.change(process, async |keys| key::add_signer(keys, &request).await)
    }

    /// `key signer revoke`
    pub(crate) fn revoke(&self, process: &Process, key: usize) -> Result<KeysResult, Failure> {
        self.revoke_but(process, key, BTreeSet::new())
    }

    /// `key signer revoke --except ...`
    pub(crate) fn revoke_but(
        &self,
        process: &Process,
        key: usize,
        except: BTreeSet<SnapshotId>,
    ) -> Result<KeysResult, Failure> {
        let signer = signing_key(key).fingerprint().to_string();
        let request = RevokeRequest { confirm: Some(signer.clone()), signer, except };
        self.change(process, async |keys| key::revoke(keys, &request).await)
    }
}

impl Process {
    /// Restores a snapshot with one custodian's identity.
    pub(crate) fn restored_by(&self, custodian: &Custodian, id: SnapshotId) -> Result<Files, Failure> {
        live(self.restore_with(custodian.identities.clone(), Target::SnapshotId(id))).map(|(_, files)| files)
    }
}
