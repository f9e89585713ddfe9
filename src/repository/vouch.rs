//! Vouches on the stores: what stays good of a signer that was revoked.
//!
//! A vouch counts where a signer that is trusted now, and trusted with keys, signed it for this repository. What it
//! names is then accepted byte for byte, whoever signed it. No store can add to that, and none can take a vouch of
//! another repository for it.

use super::{
    Repository,
    catalogue::{Refusal, text_of},
    head, layout,
};
use crate::{
    core::{
        id::{RepositoryId, Sha256},
        vouch::{Vouch, VouchId},
    },
    format::{
        self,
        signature::{self, MAX_SIGNATURE_BYTES, SignatureError, SignerFingerprint},
        signers, vouch as vouch_format,
    },
    stores::Store,
};
use bytes::Bytes;
use futures_util::{StreamExt, future::join_all, stream};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use tokio::sync::OnceCell;

/// How many vouches are asked for at once.
const CONCURRENT_READS: usize = 4;
/// The most names of vouches that one store may show. A repository has one for each key that was revoked.
const NAMES_MAX: usize = 10_000;

/// The name that signers of vouches sign as.
pub fn principal(repository: &RepositoryId) -> String {
    signature::role_principal("keys", repository)
}

/// What is vouched for, read when something asks for it.
#[derive(Clone, Default)]
pub struct Vouches(Arc<OnceCell<Vouched>>);

/// What is vouched for.
#[derive(Clone, Debug, Default)]
pub struct Vouched {
    objects: BTreeMap<String, BTreeSet<Sha256>>,
    /// The signers that vouches name as revoked.
    pub revoked: BTreeSet<String>,
}

impl Vouched {
    fn add(&mut self, vouch: Vouch) {
        for (name, sha256) in vouch.objects {
            self.objects.entry(name).or_default().insert(sha256);
        }
        self.revoked.insert(vouch.revoked);
    }

    /// Whether an object of this name is vouched for, in some form.
    pub fn names(&self, name: &str) -> bool {
        self.objects.contains_key(name)
    }

    /// Whether an object is vouched for in exactly this form.
    pub fn holds(&self, name: &str, sha256: Sha256) -> bool {
        self.objects.get(name).is_some_and(|digests| digests.contains(&sha256))
    }
}

/// A vouch that counts.
#[derive(Clone, Debug, PartialEq)]
pub struct SignedVouch {
    /// What it says.
    pub vouch: Vouch,
    /// Its exact bytes.
    pub bytes: Bytes,
    /// The signature over them.
    pub signature: Bytes,
}

/// What the stores hold of vouches.
#[derive(Debug, Default)]
pub struct VouchSurvey {
    /// Vouches that some store has right.
    pub good: BTreeMap<VouchId, SignedVouch>,
    /// By the positions of the stores that answered: the vouches that each shows, and why one is not accepted there.
    pub shown: BTreeMap<usize, BTreeMap<VouchId, Option<Refusal>>>,
}

impl Repository {
    /// What is vouched for. The stores are asked once.
    pub async fn vouched(&self) -> &Vouched {
        self.vouches.0.get_or_init(|| self.load_vouches()).await
    }

    async fn load_vouches(&self) -> Vouched {
        let mut holders: BTreeMap<VouchId, Vec<usize>> = BTreeMap::new();
        for (at, names) in self.list_vouches().await {
            names.into_iter().for_each(|id| holders.entry(id).or_default().push(at));
        }
        let reads = stream::iter(holders).map(|(id, stores)| async move {
            for at in stores {
                if let Ok(signed) = self.read_trusted_vouch(at, id).await {
                    return Some(signed.vouch);
                }
            }
            None
        });
        let mut vouched = Vouched::default();
        let mut reads = std::pin::pin!(reads.buffer_unordered(CONCURRENT_READS));
        while let Some(vouch) = reads.next().await {
            vouch.into_iter().for_each(|vouch| vouched.add(vouch));
        }
        vouched
    }

    /// The ids of vouches that each store shows, by its position; a store that does not answer is left out.
    async fn list_vouches(&self) -> BTreeMap<usize, BTreeSet<VouchId>> {
        let listings = join_all(self.stores.iter().enumerate().map(|(at, store)| async move {
            if head::status(store, self.id).await != head::StoreStatus::Ready {
                return None;
            }
            let names = store.list(layout::KEYS).await.ok()?;
            let ids = names.iter().filter_map(|(name, _)| layout::vouch_of(name));
            Some((at, ids.take(NAMES_MAX).collect()))
        }))
        .await;
        listings.into_iter().flatten().collect()
    }

    /// Reads every vouch on every store.
    pub async fn survey_vouches(&self) -> VouchSurvey {
        let mut survey = VouchSurvey::default();
        for (at, ids) in self.list_vouches().await {
            let shown = survey.shown.entry(at).or_default();
            for id in ids {
                let refusal = match self.read_vouch(at, id).await {
                    // Two good ones under one id differ in nothing that counts, or one of them is of a thief: the
                    // first stays.
                    Ok(signed) => {
                        let first = survey.good.entry(id).or_insert_with(|| signed.clone());
                        (*first != signed).then(|| Refusal::Damaged("another store has another one".to_owned()))
                    }
                    Err(why) => Some(why),
                };
                shown.insert(id, refusal);
            }
        }
        survey
    }

    /// A vouch that counts, or did when its signer was revoked and is vouched for itself.
    async fn read_vouch(&self, store: usize, id: VouchId) -> Result<SignedVouch, Refusal> {
        let name = layout::vouch(id, "json");
        let signature = self.vouch_signature(store, id).await?;
        let (text, principal) = (text_of(&signature)?, principal(&self.id));
        self.may_be_trusted(&name, text, signature::KEYS, &principal).await.map_err(Refusal::untrusted)?;
        let bytes = get(&self.stores[store], &name, vouch_format::MAX_BYTES).await?;
        let signer =
            self.verify_signed(&name, &bytes, text, signature::KEYS, &principal).map_err(Refusal::untrusted)?;
        self.parse_vouch(id, bytes, signature.clone(), &signer)
    }

    /// A vouch that counts. It must not ask what is vouched for: that is made of these.
    async fn read_trusted_vouch(&self, store: usize, id: VouchId) -> Result<SignedVouch, Refusal> {
        let name = layout::vouch(id, "json");
        let signature = self.vouch_signature(store, id).await?;
        let (text, principal) = (text_of(&signature)?, principal(&self.id));
        self.signers.permits(text, signature::KEYS, &principal).map_err(Refusal::untrusted)?;
        let bytes = get(&self.stores[store], &name, vouch_format::MAX_BYTES).await?;
        let signer = self.signers.verify(&bytes, text, signature::KEYS, &principal).map_err(Refusal::untrusted)?;
        self.parse_vouch(id, bytes, signature.clone(), &signer)
    }

    async fn vouch_signature(&self, store: usize, id: VouchId) -> Result<Bytes, Refusal> {
        get(&self.stores[store], &layout::vouch(id, "sig"), MAX_SIGNATURE_BYTES as u64).await
    }

    fn parse_vouch(
        &self,
        id: VouchId,
        bytes: Bytes,
        signature: Bytes,
        signer: &SignerFingerprint,
    ) -> Result<SignedVouch, Refusal> {
        let vouch = vouch_format::parse(&bytes)?;
        if vouch.repository != self.id || vouch.vouch != id {
            return Err(Refusal::Damaged(format!(
                "it is vouch {} of repository {}, not what its path says",
                vouch.vouch, vouch.repository
            )));
        }
        if vouch.signer != signer.as_str() {
            return Err(Refusal::Damaged(format!("it names {} as its signer, and {signer} signed it", vouch.signer)));
        }
        Ok(SignedVouch { vouch, bytes, signature })
    }

    /// Whether a signature may count: its key may sign so, or what it signs has a name that is vouched for. Asked
    /// before the object itself is read, and before [`Repository::verify_signed`].
    pub(crate) async fn may_be_trusted(
        &self,
        name: &str,
        signature: &str,
        namespace: &str,
        principal: &str,
    ) -> Result<(), SignatureError> {
        match self.signers.permits(signature, namespace, principal) {
            Err(error) if error.is_of_trust() && self.vouched().await.names(name) => Ok(()),
            other => other,
        }
    }

    /// Checks that an object is signed by who may sign it; or by anybody, and vouched for as it is.
    pub(crate) fn verify_signed(
        &self,
        name: &str,
        bytes: &[u8],
        signature: &str,
        namespace: &str,
        principal: &str,
    ) -> Result<SignerFingerprint, SignatureError> {
        match self.signers.verify(bytes, signature, namespace, principal) {
            Err(error) if error.is_of_trust() && self.vouches_for(name, bytes) => {
                signers::signed_by(bytes, signature, namespace)
            }
            other => other,
        }
    }

    pub(super) fn vouches_for(&self, name: &str, bytes: &[u8]) -> bool {
        self.vouches.0.get().is_some_and(|vouched| vouched.holds(name, format::sha256(bytes)))
    }
}

async fn get(store: &Store, name: &str, max_bytes: u64) -> Result<Bytes, Refusal> {
    store.get(name, max_bytes).await.map_err(|error| match error.is_missing() && name.ends_with(".sig") {
        true => Refusal::Untrusted("it has no signature".to_owned()),
        false => Refusal::of_store(error),
    })
}
