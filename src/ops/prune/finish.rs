//! Finishing executed plans on stores that lagged.

use super::{
    execute::{Pruning, Unpublished},
    gather::Gathered,
};
use crate::{
    core::{
        failure::Failure,
        id::RunId,
        prune::{CondemnedLog, CondemnedSet},
    },
    repository::{
        catalogue::Catalogue,
        layout,
        prunes::{SignedPrune, deleted_by, holders},
    },
};

impl Pruning<'_> {
    /// Finishes executed plans on stores that lagged: their records first, the same on all of them, then what they still
    /// hold. Nothing must stay of them any more: see [`Pruning::spare_what_stays`].
    pub(super) async fn finish_lagging(&mut self, gathered: &Gathered) {
        let catalogue = &gathered.catalogue;
        for plan in catalogue.prunes.unconfirmed.keys().filter(|plan| !catalogue.prunes.pending.contains_key(plan)) {
            self.warnings.insert(format!(
                "too few stores say that plan {plan} of {} is executed, and none has the plan: nothing is deleted by it; \
                 recoup verify",
                self.protected.name
            ));
        }
        let (mut tombstones, mut finished) = (CondemnedSet::default(), Vec::new());
        for (plan, records) in &catalogue.prunes.executed {
            let (deletes, list) = (deleted_by(records), layout::prune_list(*plan));
            // One that no store has nobody can bring.
            let is_listed = catalogue.ready().any(|at| catalogue.listings[at].objects.contains_key(&list));
            let lags = |at: usize| {
                let shown = &catalogue.listings[at].objects;
                !holders(records).contains(&at)
                    || is_listed && !shown.contains_key(&list)
                    || shown.keys().any(|name| deletes.has_object(name))
            };
            if records.len() == 1 && !catalogue.ready().any(lags) {
                continue;
            }
            match self.finish_record(catalogue, *plan, records).await {
                Ok(records) => {
                    tombstones.extend(deleted_by(&records));
                    finished.extend(records);
                }
                Err(failure) => {
                    self.warnings.insert(failure.to_string());
                }
            }
        }
        self.keep_log_that_stays(gathered, &finished, &mut tombstones).await;
        self.delete(catalogue, &tombstones).await;
    }

    /// Takes out what must stay of the log, for this run: whoever needs it may be gone with the next.
    async fn keep_log_that_stays(
        &mut self,
        gathered: &Gathered,
        finished: &[SignedPrune],
        tombstones: &mut CondemnedSet,
    ) {
        let parts = finished.iter().flat_map(|of| of.record.condemned.log.iter().map(|part| (of.record.plan, part)));
        let (plans, parts): (Vec<RunId>, Vec<&CondemnedLog>) = parts.unzip();
        for (at, why) in gathered.log_that_stays(self.host, &parts).await {
            tombstones.logs.spare(parts[at]);
            if let Some(why) = why {
                self.warnings.insert(format!(
                    "plan {} is executed, and deletes files of log {} of {}, which stay where they still lie: {why}",
                    plans[at], parts[at].history, self.protected.name
                ));
            }
        }
    }

    /// Puts the record of an executed plan, and what lists its runs of a log, on the stores that lack it, and the same on
    /// all of them; gives what stands there then.
    async fn finish_record(
        &mut self,
        catalogue: &Catalogue,
        plan: RunId,
        records: &[SignedPrune],
    ) -> Result<Vec<SignedPrune>, Failure> {
        let least = deleted_by(records);
        let deletes_least = |signed: &&SignedPrune| CondemnedSet::of(&signed.record.condemned) == least;
        let mut stores = holders(records);
        if let Some(signed) = records.iter().find(deletes_least).or(records.first()) {
            let name = layout::prune_list(plan);
            let list = match signed.record.log_sha256 {
                Some(sha256) => {
                    let (repository, source) = (&self.host.repository, &catalogue.source);
                    repository.find_list(source, (plan, sha256), &catalogue.listings).await
                }
                None => None,
            };
            let lacks = |at: &usize| {
                !stores.contains(at) || list.is_some() && !catalogue.listings[*at].objects.contains_key(&name)
            };
            for at in catalogue.ready().filter(lacks).collect::<Vec<_>>() {
                match self.publish_on(at, signed, list.as_ref()).await {
                    Ok(()) => drop(stores.insert(at)),
                    Err(Unpublished { why, .. }) => {
                        let store = catalogue.listings[at].store.clone();
                        self.lags(&store, &why);
                    }
                }
            }
        }
        let records = self.records_on(plan, &stores).await?;
        let deletes = deleted_by(&records);
        let settled = self.settled(&records, &deletes)?;
        self.settle(&records, &settled, &deletes).await?;
        Ok(records)
    }
}
