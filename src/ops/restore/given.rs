//! Which stores gave what a restore read, and which of them could not have begun one.

use super::{Located, inventory_object};
use crate::{
    core::result::{Problem, WentRound},
    repository::{catalogue::StoreListing, head::StoreStatus},
};

impl Located {
    /// The stores that gave what was read so far, by name.
    pub fn stores_used(&self) -> Vec<String> {
        let mut stores = self.catalogue.given_by(self.committed());
        stores.extend(self.asked_for_the_inventory().last().map(|listing| listing.store.clone()));
        stores.into_iter().collect()
    }

    /// The stores that come before the one whose copy of the inventory was taken, and have none: whatever else they
    /// hold, nothing on them says that it is a snapshot.
    pub fn not_committed_on(&self) -> Vec<WentRound> {
        let object = inventory_object(&self.catalogue, self.id());
        let mut before = self.asked_for_the_inventory();
        before.pop();
        let lacking = before.into_iter().filter(|listing| !listing.has_inventory(self.id()));
        let gone_round = lacking.map(|listing| WentRound {
            store: listing.store.clone(),
            object: object.clone(),
            problem: match listing.status {
                StoreStatus::Ready => Problem::Missing,
                _ => Problem::Unreachable,
            },
        });
        gone_round.collect()
    }

    /// The stores in the order in which they are asked, up to the one whose copy of the inventory was taken.
    fn asked_for_the_inventory(&self) -> Vec<&StoreListing> {
        let refused = |listing: &StoreListing| {
            self.catalogue.refused.iter().any(|refused| refused.id == self.id() && refused.store == listing.store)
        };
        let listings = &self.catalogue.listings;
        let taken = listings.iter().position(|listing| listing.has_inventory(self.id()) && !refused(listing));
        listings.iter().take(taken.map_or(0, |at| at + 1)).collect()
    }
}
