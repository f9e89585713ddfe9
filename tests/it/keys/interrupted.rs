//! A revocation that ends in the middle of its reading, after every few operations.

use crate::simulation::{
    Site,
    content::Database,
    keyring::{Keyed, custodians},
    live,
};
use recoup::core::result::Status;

#[test]
fn a_revocation_that_could_not_read_everything_vouches_for_nothing() {
    let site = Site::new(3);
    let mut database = Database::new(512);
    database.set("ledger", vec![7; 4000]);
    let mut hosts = [0, 1].map(|number| Keyed::new(number, "interrupted", number, &[0, 1]));
    let mut taken = Vec::new();
    for host in &hosts {
        taken.push(live(host.process(&site, &database).backup(false)).unwrap().head.id);
    }
    // The second host has vouched for the first, whose key is another now, and is revoked itself.
    hosts[1].revoke(&hosts[1].process(&site, &database), 0).unwrap();
    hosts[1].add_signer(&hosts[1].process(&site, &database), 2).unwrap();
    let [first, second] = &mut hosts;
    first.set_up_again(2, second);
    let mut interrupted = 0;
    for last in (0..).step_by(7) {
        let (site, host) = (site.fork(), first.fork("again"));
        let process = host.process(&site, &database);
        process.operations.stop_after(last);
        let done = host.revoke(&process, 1);
        if !process.operations.stopped() {
            done.unwrap();
            break;
        }
        interrupted += 1;
        if done.is_err() {
            host.revoke(&host.process(&site, &database), 1).unwrap();
        }
        let process = host.process(&site, &database);
        for id in &taken {
            let restored = process.restored_by(&custodians()[0], *id);
            assert!(restored.as_ref().is_ok_and(|files| *files == database.files), "{last}: {id}: {restored:?}");
        }
        let copied = live(process.copy()).unwrap();
        assert_eq!(copied.status, Status::Ok, "{last}: {:?}", copied.findings);
    }
    assert!(interrupted > 5, "it was interrupted {interrupted} times only");
}
