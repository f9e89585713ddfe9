//! `recoup`: disaster recovery for ledgers and compliance logs.
//!
//! # The map
//!
//! | module | what it is | may use |
//! |---|---|---|
//! | `core` | values and decisions, pure: ids, inventories, manifests, policies, plans, results, failures | nothing |
//! | `format` | bytes to values and back, pure: packs, manifests, indexes, digests, signatures, sealing | `core` |
//! | `sources` | protected databases and logs, one folder each: a consistent view, its files, their blocks | `core`, `format`, `world` |
//! | `stores` | where objects lie: create without overwriting, heal, read within bounds | `core`, `format`, `world` |
//! | `repository` | the layout on stores, reading what is committed, fetching, healing | `core`, `format`, `stores`, `world` |
//! | `config` | `recoup.toml` and policies as typed settings, each with where it came from | `core`, `world` |
//! | `ops` | one use case each: init, backup, list, restore, verify, check, drill, prune, report and others | all but `cli` |
//! | `cli` | arguments, printing, progress, signals, exit codes | `ops`, `core`, `config`, `world` |
//! | `world` | clock, randomness, processes, environment: the only doors to them | `core` |
//!
//! A source never sees a store, a store never sees a database. Only `cli` prints, only `world` reads clocks and the
//! environment. A test holds the code to all of this.
//!
//! # The way of the bytes
//!
//! A backup gathers (stores, base, whether anything changed), plans (full or incremental, what to capture again),
//! captures (view, changed blocks, frames, packs) on threads of its own while the shipment brings sealed objects to
//! every store at its own pace, and commits on each store by itself. Start at `ops::backup`.
//!
//! A restore chooses a signed snapshot, reads its manifest, fetches each object from the first store that has it right,
//! and publishes the result when all of it is. Start at `ops::restore`.
//!
//! # What must always hold
//!
//! 1. An inventory is written last, and only on a store that holds everything it names. Its existence is the commit.
//! 2. Nothing is overwritten. The one exception is healing, which keeps the damaged bytes where the store can.
//! 3. What a command calls done is on stable storage.
//! 4. Nothing is believed because it lies on a store: a trusted signature vouches for the inventory (of a revoked signer,
//!    a trusted vouch, by SHA-256), the inventory by SHA-256 for every other object, and a keyed digest for every stored
//!    block. Every byte read is hostile until then.
//! 5. The backup host holds no key that opens content.
//! 6. Packs and digests are sealed to the custodians only; roots, parts and indexes also to the host's catalogue key.
//! 7. A block is used again only while its pack is intact somewhere and sealed to every configured recipient.
//! 8. Local state describes the one inventory whose digest it names, and is replaced after that is committed. All of
//!    it may be lost: the next snapshot is then a full.
//! 9. Nothing read through a view is committed before the view has said that it was one consistent state.
//! 10. Nothing is deleted but by an executed, signed plan, which was published before it was looked again at what is in
//!     use. A backup uses nothing that a plan condemns, and lists plans after its commit.
//! 11. One failing part never stops the rest: what is wrong is named, with the next step, and has its exit code.
//!
//! The format is described for other readers in recoup-repository(7).

pub mod cli;
pub mod config;
pub mod core;
pub mod format;
pub mod ops;
pub mod repository;
pub mod sources;
pub mod stores;
pub mod world;
