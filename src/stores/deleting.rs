//! Deleting from a store: one object, whose name a signed record gives.

use super::{Store, StoreError, error::Trouble};
use futures_util::{StreamExt, TryStreamExt, stream};

impl Store {
    /// Removes an object. One that is not there is removed already.
    ///
    /// When this returns, the object stays away, also after a loss of power. A store that keeps what it holds (rights,
    /// an object lock) answers [`super::Problem::Denied`]: that is a state, not an accident.
    pub async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let path = self.path(key)?;
        let remove = || async {
            let one = stream::once(std::future::ready(Ok(path.clone()))).boxed();
            match self.once(0, self.objects.delete_stream(one).try_collect::<Vec<_>>()).await {
                // A lost reply makes the second attempt find nothing.
                Ok(_) | Err(Trouble::Missing) => Ok(()),
                Err(trouble) => Err(trouble),
            }
        };
        self.repeated(key, remove).await
    }
}
