//! The repository on its stores: layout, reading what is committed, committing, healing.

pub mod catalogue;
pub mod chains;
pub mod evidence;
pub mod fetch;
pub mod head;
pub mod heal;
pub mod layout;
pub mod log;
mod lost_head;
pub mod prunes;
pub mod recovery;
mod spoilt;
pub mod survey;
pub mod vouch;

use crate::{
    core::{id::RepositoryId, policy::Place},
    format::signers::Signers,
    stores::Store,
};
use std::collections::{BTreeMap, BTreeSet};
use vouch::Vouches;

/// A repository: one id, mirrored on its stores, and the signers that are trusted for it.
#[derive(Clone)]
pub struct Repository {
    /// Its id.
    pub id: RepositoryId,
    /// Its stores, in the order of preference for reading.
    pub stores: Vec<Store>,
    /// Who may sign what.
    pub signers: Signers,
    /// What is good though its signer is not trusted any more. Read when something asks for it, and once.
    pub vouches: Vouches,
}

impl Repository {
    /// Where each store is, by name.
    pub fn places(&self) -> BTreeMap<String, Place> {
        self.stores.iter().map(|store| (store.name().to_owned(), store.place().clone())).collect()
    }

    /// The names of stores that are given by position.
    pub fn names_of(&self, stores: &BTreeSet<usize>) -> BTreeSet<String> {
        stores.iter().map(|at| self.stores[*at].name().to_owned()).collect()
    }
}
