//! Ten incrementals in a row while tables, databases, indexes and large objects come, go and move: every snapshot and
//! every moment shows exactly what had been committed by then. Seeded: a failing seed prints the line that replays it.

use super::{
    cluster::{BALANCED, Cluster},
    sound::assert_sound,
};
use crate::{
    needs::needs,
    simulation::{Trace, random::Rng, replay_named, replayable},
    support::{count_from, run},
};
use std::{fs, thread};

const SNAPSHOTS: usize = 10;
/// The places where tables and databases may lie.
const SPACES: [&str; 3] = ["pg_default", "near", "far"];

/// Says in one line what there is of everything that is changed here, but for the transfers that go on all the time.
const STATE: &str = "CREATE FUNCTION state() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    t record;
    content text;
    said text := '';
BEGIN
    FOR t IN SELECT c.relname, c.relpersistence, coalesce(s.spcname, 'pg_default') AS space,
            (SELECT count(*) FROM pg_index WHERE indrelid = c.oid) AS indexes
        FROM pg_class c LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace
        WHERE c.relkind = 'r' AND c.relname ~ '^[tu][0-9]+$' ORDER BY 1
    LOOP
        content := 'unlogged';
        IF t.relpersistence = 'p' THEN
            EXECUTE format('SELECT count(*) || ''/'' || coalesce(sum(hashtext(t::text)::bigint), 0) FROM %I t', t.relname)
                INTO content;
        END IF;
        said := said || format('%s in %s: %s, %s indexes; ', t.relname, t.space, content, t.indexes);
    END LOOP;
    RETURN said || (SELECT count(*) || ' large: ' || coalesce(sum(hashtext(lo_get(oid)::text)::bigint), 0)
        FROM pg_largeobject_metadata);
END $$";

/// What there was at a moment.
struct Moment {
    target: String,
    state: String,
}

struct Churn {
    cluster: Cluster,
    rng: Rng,
    trace: Trace,
    /// How many things have had a name.
    named: u64,
    /// Tables that are there, whether they are logged, and databases.
    tables: Vec<(String, bool)>,
    databases: Vec<String>,
    moments: Vec<Moment>,
}

fn version(seed: u64) -> &'static str {
    if seed.is_multiple_of(2) { "postgres15" } else { "postgres18" }
}

impl Churn {
    fn new(seed: u64, trace: Trace) -> Self {
        let cluster = super::ledger(version(seed));
        if version(seed) == "postgres18" {
            cluster.sql("data", "postgres", &["ALTER SYSTEM SET summarize_wal = on", "SELECT pg_reload_conf()"]);
        }
        for space in &SPACES[1..] {
            let place = cluster.path(&format!("{space}.space"));
            run(cluster.as_owner("mkdir").arg(&place)).expect_code(0);
            let create = format!("CREATE TABLESPACE {space} LOCATION '{}'", place.display());
            cluster.sql("data", "postgres", &[&create]);
        }
        cluster.sql("data", "postgres", &["CREATE DATABASE seed"]);
        let rows = "CREATE TABLE t0 AS SELECT g AS n, md5(g::text) AS text FROM generate_series(1, 2000) g";
        cluster.sql("data", "seed", &[STATE, rows]);
        cluster.sql("data", "ledger", &[STATE]);
        let rng = Rng::new(seed);
        Churn { cluster, rng, trace, named: 0, tables: Vec::new(), databases: Vec::new(), moments: Vec::new() }
    }

    fn name(&mut self, letter: &str) -> String {
        self.named += 1;
        format!("{letter}{}", self.named)
    }

    fn space(&mut self) -> &'static str {
        SPACES[self.rng.below(SPACES.len() as u64) as usize]
    }

    fn table(&mut self) -> Option<usize> {
        let there = self.tables.len() as u64;
        (there > 0).then(|| self.rng.below(there) as usize)
    }

    fn database(&mut self) -> Option<usize> {
        let there = self.databases.len() as u64;
        (there > 0).then(|| self.rng.below(there) as usize)
    }

    /// A change of the databases, of their files, or of both.
    fn statement(&mut self) -> (&'static str, String) {
        let (kind, space, rows) = (self.rng.below(15), self.space(), 100 + self.rng.below(4000));
        let content = format!("AS SELECT g AS n, md5(g::text) AS text FROM generate_series(1, {rows}) g");
        if let (2..=9, Some(at)) = (kind, self.table()) {
            return ("ledger", self.change_table(kind, at, space));
        }
        if let (10 | 11, Some(at)) = (kind, self.database()) {
            let database = self.databases[at].clone();
            if kind == 11 {
                return ("postgres", format!("ALTER DATABASE {database} SET TABLESPACE {space}"));
            }
            self.databases.remove(at);
            return ("postgres", format!("DROP DATABASE {database}"));
        }
        match kind {
            0..=9 => {
                let is_logged = !self.rng.percent(20);
                let table = self.name(if is_logged { "t" } else { "u" });
                self.tables.push((table.clone(), is_logged));
                let unlogged = if is_logged { "" } else { "UNLOGGED " };
                ("ledger", format!("CREATE {unlogged}TABLE {table} TABLESPACE {space} {content}"))
            }
            10..=12 => {
                let (database, way) = (self.name("d"), *self.rng.pick(&["file_copy", "wal_log"]));
                self.databases.push(database.clone());
                let made = format!("CREATE DATABASE {database} TEMPLATE seed STRATEGY {way} TABLESPACE {space}");
                ("postgres", made)
            }
            13 => ("ledger", format!("SELECT lo_from_bytea(0, repeat('large ', {rows})::bytea)")),
            _ => {
                ("ledger", "SELECT lo_unlink(min(oid)) FROM pg_largeobject_metadata HAVING min(oid) IS NOT NULL".into())
            }
        }
    }

    fn change_table(&mut self, kind: u64, at: usize, space: &str) -> String {
        let (table, is_logged) = self.tables[at].clone();
        match kind {
            2 => format!("TRUNCATE {table}"),
            3 => format!("VACUUM FULL {table}"),
            4 => format!("CREATE INDEX ON {table} (text) TABLESPACE {space}"),
            5 => format!("ALTER TABLE {table} SET TABLESPACE {space}"),
            6 => {
                self.tables.remove(at);
                format!("DROP TABLE {table}")
            }
            7 => format!("INSERT INTO {table} SELECT g, 'more' FROM generate_series(1, 1000) g"),
            8 => {
                self.tables[at].1 = !is_logged;
                format!("ALTER TABLE {table} SET {}", if is_logged { "UNLOGGED" } else { "LOGGED" })
            }
            _ => format!("DELETE FROM {table} WHERE n % 3 = 0"),
        }
    }

    /// What a server has.
    fn state(&self, server: &str) -> String {
        let databases = "SELECT datname || ' ' || spcname FROM pg_database d JOIN pg_tablespace t ON t.oid = dattablespace \
            WHERE datname ~ '^d[0-9]+$' ORDER BY 1";
        let mut state = self.cluster.sql(server, "ledger", &["SELECT state()"]);
        for line in self.cluster.sql(server, "postgres", &[databases]).lines() {
            let (database, _) = line.split_once(' ').unwrap();
            state.push_str(&format!("; {line}: {}", self.cluster.sql(server, database, &["SELECT state()"])));
        }
        state
    }

    fn note(&self, line: &str) {
        self.trace.lock().unwrap().push(line.to_owned());
    }

    /// Changes something, and keeps what there is then. Nobody else changes it.
    fn change(&mut self) {
        let (database, statement) = self.statement();
        self.note(&statement);
        let moment = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
        self.cluster.sql("data", database, &[&statement]);
        let target = self.cluster.sql("data", "postgres", &[moment]);
        let state = self.state("data");
        self.moments.push(Moment { target, state });
    }

    /// Takes a snapshot while something is changed; gives its target, and the states that it may be of.
    fn snapshot(&mut self) -> (String, std::ops::RangeInclusive<usize>) {
        let first = self.moments.len() - 1;
        let mut backup = self.cluster.recoup(["backup", "ledger", "--json"]);
        let taken = thread::scope(|scope| {
            let taken = scope.spawn(|| run(&mut backup).expect_code(0).json());
            while !taken.is_finished() && self.moments.len() < first + 4 {
                self.change();
            }
            taken.join().unwrap()
        });
        let snapshot = &taken["snapshots"][0];
        self.note(&format!("snapshot {} of states {first} to {}", snapshot["seq"], self.moments.len() - 1));
        let kind = if first == 0 { "full" } else { "incremental" };
        assert_eq!(snapshot["kind"], kind, "{taken}");
        (format!("snapshot:{}", snapshot["seq"]), first..=self.moments.len() - 1)
    }

    /// Restores to a target: what the server has then is one of the states.
    fn restored(&mut self, target: &str, states: std::ops::RangeInclusive<usize>, proven: bool) {
        self.note(&format!("restore to {target}, of states {states:?}"));
        let extra: &[&str] = if self.rng.percent(50) { &["--fetch-log"] } else { &[] };
        self.cluster.restore_to("restored", target, extra).expect_code(0);
        self.cluster.start_restored("restored");
        let state = self.state("restored");
        let expected: Vec<&str> = self.moments[states].iter().map(|moment| moment.state.as_str()).collect();
        assert!(expected.contains(&state.as_str()), "{target}:\n{state}\nis none of\n{}", expected.join("\n"));
        assert_eq!(self.cluster.sql("restored", "ledger", &[BALANCED]), "t", "{target}");
        if proven {
            assert_sound(&mut self.cluster, "restored");
        } else {
            self.cluster.stop("restored");
        }
        fs::remove_dir_all(self.cluster.path("restored")).unwrap();
    }
}

fn churn(seed: u64) {
    replayable(seed, "postgres::churn::replay", |trace| {
        let mut churn = Churn::new(seed, trace);
        let mut traffic = churn.cluster.traffic();
        let mut snapshots = Vec::new();
        for _ in 0..=SNAPSHOTS {
            churn.change();
            snapshots.push(churn.snapshot());
        }
        assert!(traffic.is_running());
        drop(traffic);
        churn.change();
        let (last, postings) = (churn.moments.len() - 1, "SELECT count(*) FROM posting");
        let posted = churn.cluster.sql("data", "ledger", &[postings]);
        churn.cluster.sql("data", "ledger", &["SELECT pg_switch_wal()"]);
        churn.cluster.drained("data");
        run(&mut churn.cluster.recoup(["copy"])).expect_code(0);
        run(&mut churn.cluster.recoup(["verify"])).expect_code(0);
        for _ in 0..count_from("RECOUP_TEST_MOMENTS", 6).div_ceil(4) {
            let (target, states) = churn.rng.pick(&snapshots[1..]).clone();
            churn.restored(&target, states, false);
            // The last state of the first snapshot may be older than its end.
            let first = *snapshots[0].1.end() + 1;
            let at = first + churn.rng.below((last - first) as u64) as usize;
            let target = churn.moments[at].target.clone();
            churn.restored(&target, at..=at, false);
        }
        churn.restored("latest", last..=last, true);
        assert!(posted.parse::<u64>().unwrap() > 100, "{posted}");
    });
}

/// Half of the seeds are of each version.
fn seeds() -> impl Iterator<Item = u64> {
    0..count_from("RECOUP_TEST_SEEDS", 300).div_ceil(500) * 2
}

#[test]
fn ten_incrementals_of_15_while_everything_changes() {
    if needs("postgres15") && needs("setpriv") {
        seeds().filter(|seed| version(*seed) == "postgres15").for_each(churn);
    }
}

#[test]
fn ten_incrementals_of_18_while_everything_changes() {
    if needs("postgres18") && needs("setpriv") {
        seeds().filter(|seed| version(*seed) == "postgres18").for_each(churn);
    }
}

/// The one seed that `RECOUP_TEST_SEED` names.
#[test]
fn replay() {
    if needs("postgres15") && needs("postgres18") && needs("setpriv") {
        replay_named(churn);
    }
}
