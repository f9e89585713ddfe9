//! How many stores make a snapshot durable: as many as the policy says, once no prune can fail to know.
//!
//! With n stores, let W be more than half of them. A prune reads the control log from n−W+1 stores, and publishes its plan,
//! and looks again, on as many at least; on n−m+1, if that is more, for the smallest m that it has read of. So nothing that
//! W stores hold is ever missed, and a policy that asks for W or more is taken at its word.
//!
//! One that asks for m < W is so only when two things are true. The record that says m is on W stores: a prune that reads
//! the control log after that knows of m. And since then this host has seen the plans of W stores, and built nothing on
//! what they condemn: a prune that had read the control log before had its plan on n−W+1 stores by then. Until both are,
//! as in an outage in which m was lowered, what fewer than W stores hold is not called durable.

use super::{Host, Protected};
use crate::{
    core::policy::Copies,
    ops::{
        evidence::announced,
        state::{Announced, Known},
    },
    repository::catalogue::{Catalogue, Refusal},
};

/// What is required of this run.
pub(super) struct Required {
    pub(super) copies: Copies,
    /// What to note once the next snapshot builds on this one.
    pub(super) announced: Option<Announced>,
    /// Why more stores are needed than the policy asks for, if so.
    pub(super) because: Option<String>,
}

/// What the stores have been told of what the policy asks for; `None` where it asks for more than half of them. To be
/// read before the plans are.
pub(super) fn told(host: &Host, protected: &Protected) -> Option<Result<Announced, String>> {
    let repository = &host.repository;
    let wanted = protected.policy.copies.required_stores(repository.stores.len());
    let is_fewer = wanted < repository.control_write_quorum();
    is_fewer.then(|| {
        let signer = host.key.fingerprint();
        announced(repository, &host.state_dir, &protected.name, wanted as u64, Some(signer.as_str()))
    })
}

/// What is required, after the plans were read.
pub(super) fn required(
    host: &Host,
    protected: &Protected,
    told: Option<Result<Announced, String>>,
    known: &Known,
    catalogue: &Catalogue,
) -> Required {
    let copies = protected.policy.copies.clone();
    let Some(told) = told else { return Required { copies, announced: None, because: None } };
    let (stores, most) = (host.repository.stores.len(), host.repository.control_write_quorum());
    let shown = plans_shown(catalogue);
    let why = match told {
        Ok(announced) if known.announced.as_ref() == Some(&announced) || shown >= most => {
            return Required { copies, announced: Some(announced), because: None };
        }
        Ok(_) => {
            format!("{shown} of {stores} stores showed their prune plans since that is on record, and {most} must")
        }
        Err(why) => why,
    };
    let wanted = copies.required_stores(stores);
    let because = format!(
        "the policy asks for {wanted} of {stores} stores, which counts as soon as every prune knows: {why}; until then \
         {most} must hold a snapshot"
    );
    Required { copies: copies.on_stores(most), announced: None, because: Some(because) }
}

/// How many stores have shown all of their plans.
fn plans_shown(catalogue: &Catalogue) -> usize {
    let prunes = &catalogue.prunes;
    let known = prunes.known();
    let unread = |store: &str| {
        prunes.refused.iter().any(|refused| {
            let is_unread = matches!(refused.why, Refusal::Unreadable(_) | Refusal::Newer(_));
            refused.store == store && is_unread && !known.contains(&refused.plan)
        })
    };
    catalogue.ready().filter(|at| !unread(&catalogue.listings[*at].store)).count()
}
