//! Private PostgreSQL clusters, with a repository beside them, run by a user who is not root: PostgreSQL refuses root.

use crate::{
    needs::is_installed,
    support::{Run, program, run},
};
use recoup::world;
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};
use tempfile::TempDir;

/// Who runs clusters where root runs the tests.
const OWNER: &str = "65534";

/// A server with its data, three stores and a configuration, all in one directory.
pub(crate) struct Cluster {
    dir: TempDir,
    bin: PathBuf,
    /// The data directory and the directory of the socket of what runs; stopped at the end.
    running: Vec<PathBuf>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for data in std::mem::take(&mut self.running) {
            let mut stop = self.program("pg_ctl");
            let _ = stop.arg("-D").arg(data).args(["-m", "immediate", "-w", "stop"]).output();
        }
    }
}

impl Cluster {
    /// A running cluster of the version that `program` is a link to, such as `postgres15`.
    pub(crate) fn new(program_name: &str) -> Self {
        Cluster::with(program_name, &[])
    }

    /// The same, made with options of initdb.
    pub(crate) fn with(program_name: &str, options: &[&str]) -> Self {
        let mut cluster = Cluster::empty(program_name);
        cluster.make("data", options);
        cluster.found();
        cluster.start("data");
        cluster
    }

    fn empty(program_name: &str) -> Self {
        let dir = tempfile::Builder::new().permissions(PermissionsExt::from_mode(0o755)).tempdir().unwrap();
        let built = Path::new(env!("CARGO_BIN_EXE_recoup"));
        fs::copy(built, dir.path().join("recoup")).unwrap();
        let cluster = Cluster { bin: programs(program_name), dir, running: Vec::new() };
        cluster.own(".");
        cluster
    }

    /// Gives what lies there to the user who runs the cluster.
    pub(crate) fn own(&self, name: &str) {
        own(self.dir.path(), name);
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Any program, as the user who runs the cluster.
    pub(crate) fn as_owner(&self, name: impl AsRef<std::ffi::OsStr>) -> Command {
        as_owner(self.dir.path(), name)
    }

    /// A program of the server's version.
    pub(crate) fn program(&self, name: &str) -> Command {
        self.as_owner(self.bin.join(name))
    }

    /// The binary with the configuration.
    pub(crate) fn recoup<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = self.as_owner(self.path("recoup"));
        command.args(["--config", "R/recoup.toml"]).args(arguments);
        command
    }

    /// Makes a data directory with its configuration; what it is called is where its socket is, too.
    pub(crate) fn make(&self, name: &str, options: &[&str]) {
        let mut initdb = self.program("initdb");
        initdb.arg("-D").arg(self.path(name)).args(["-U", "postgres", "--auth=trust", "-k", "-N", "--encoding=UTF8"]);
        run(initdb.args(options)).expect_code(0);
        self.configure(name, "archive_mode = on\nmax_wal_senders = 4\ncheckpoint_timeout = 1h\n");
        let unless_broken = format!("test ! -e {}", self.path("broken").display());
        self.configure(name, &format!("archive_command = '{unless_broken} && {} push ledger %p'\n", self.archive()));
    }

    /// The beginning of the commands with which a server reaches its archive, wherever it runs them.
    fn archive(&self) -> String {
        format!("{} --config {} archive", self.path("recoup").display(), self.path("R/recoup.toml").display())
    }

    /// Appends to a configuration. The settings of a test's server beside it.
    pub(crate) fn configure(&self, name: &str, text: &str) {
        let file = self.path(name).join("postgresql.conf");
        let sockets = self.path(&format!("{name}.socket"));
        if !sockets.exists() {
            fs::create_dir(&sockets).unwrap();
            self.own(&format!("{name}.socket"));
        }
        let mut whole = fs::read_to_string(&file).unwrap();
        whole.push_str(&format!(
            "listen_addresses = ''\nunix_socket_directories = '{}'\nfsync = off\n{text}",
            sockets.display()
        ));
        fs::write(&file, whole).unwrap();
    }

    /// Starts a server and waits until it takes connections.
    #[track_caller]
    pub(crate) fn start(&mut self, name: &str) {
        let data = self.path(name);
        let mut start = self.program("pg_ctl");
        start.arg("-D").arg(&data).args(["-t", "120", "-w", "-l"]).arg(self.path(&format!("{name}.log"))).arg("start");
        // Its output stays open in the server.
        let status = start.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        let log = fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default();
        assert!(status.success(), "{name} does not start:\n{log}");
        self.running.push(data);
    }

    #[track_caller]
    pub(crate) fn stop(&mut self, name: &str) {
        let data = self.path(name);
        run(self.program("pg_ctl").arg("-D").arg(&data).args(["-m", "fast", "-w", "stop"])).expect_code(0);
        self.running.retain(|running| *running != data);
    }

    /// Ends a server at once, without a checkpoint.
    #[track_caller]
    pub(crate) fn crash(&mut self, name: &str) {
        let data = self.path(name);
        run(self.program("pg_ctl").arg("-D").arg(&data).args(["-m", "immediate", "-w", "stop"])).expect_code(0);
        self.running.retain(|running| *running != data);
    }

    /// Ends a server as nothing but a power cut does, and waits until nobody is left of it.
    pub(crate) fn kill(&mut self, name: &str) {
        let data = self.path(name);
        let file = fs::read_to_string(data.join("postmaster.pid")).unwrap();
        let number: i32 = file.lines().next().unwrap().parse().unwrap();
        kill(number);
        // One that nobody has waited for yet still counts as running: another server would refuse to start.
        let is_left = || Path::new(&format!("/proc/{number}")).exists();
        while is_left() || processes().into_iter().any(|process| process.cwd.as_ref() == Some(&data)) {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        self.running.retain(|running| *running != data);
    }

    /// Runs statements, each by itself; the output of the last without decoration.
    #[track_caller]
    pub(crate) fn sql(&self, name: &str, dbname: &str, statements: &[&str]) -> String {
        run(&mut self.psql(name, dbname, statements)).expect_code(0).stdout.trim().to_owned()
    }

    /// The same, where the server may be gone.
    pub(crate) fn try_sql(&self, name: &str, dbname: &str, statements: &[&str]) -> Option<String> {
        let asked = run(&mut self.psql(name, dbname, statements));
        (asked.code == 0).then(|| asked.stdout.trim().to_owned())
    }

    fn psql(&self, name: &str, dbname: &str, statements: &[&str]) -> Command {
        let mut psql = self.program("psql");
        psql.arg("-h").arg(self.path(&format!("{name}.socket"))).args(["-U", "postgres", "-d", dbname]);
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]);
        for statement in statements {
            psql.args(["-c", statement]);
        }
        psql
    }

    /// Makes a standby that streams from the first server.
    pub(crate) fn standby(&mut self, name: &str) {
        let mut basebackup = self.program("pg_basebackup");
        basebackup.arg("-h").arg(self.path("data.socket")).args(["-U", "postgres", "-D", name, "-R", "-c", "fast"]);
        run(&mut basebackup).expect_code(0);
        self.configure(name, "");
        self.start(name);
    }

    /// From now on the source is another one of these servers.
    pub(crate) fn move_source(&self, from: &str, to: &str) {
        let config = fs::read_to_string(self.path("R/recoup.toml")).unwrap();
        let (from, to) = (self.path(from).display().to_string(), self.path(to).display().to_string());
        let config = config.replace(&format!("{from}\""), &format!("{to}\""));
        let config = config.replace(&format!("{from}.socket"), &format!("{to}.socket"));
        fs::write(self.path("R/recoup.toml"), config).unwrap();
    }

    /// Waits until everything that was to be archived is.
    #[track_caller]
    pub(crate) fn drained(&self, name: &str) {
        let waiting = "SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'";
        self.wait_for(name, waiting, "0");
    }

    /// Founds the repository.
    fn found(&self) {
        let mut init = self.as_owner(self.path("recoup"));
        init.args(["init", "--config", "R/recoup.toml", "--new-identity", "R/custodian.age"]);
        for store in ["a", "b", "c"] {
            init.arg("--store").arg(format!("{store}=file://{}", self.path(store).display()));
        }
        init.arg("--source").arg(self.source("data"));
        run(&mut init).expect_code(0);
        let config = fs::read_to_string(self.path("R/recoup.toml")).unwrap();
        fs::write(self.path("R/recoup.toml"), format!("{config}archive_wait = \"30s\"\n")).unwrap();
    }

    /// Names the server's programs in the configuration.
    pub(crate) fn name_programs(&self) {
        let config = fs::read_to_string(self.path("R/recoup.toml")).unwrap();
        fs::write(self.path("R/recoup.toml"), format!("{config}bin_dir = \"{}\"\n", self.bin.display())).unwrap();
    }

    /// Makes snapshots wait for the archive no longer than a second, or again as long as it takes.
    pub(crate) fn be_impatient(&self, impatient: bool) {
        let config = fs::read_to_string(self.path("R/recoup.toml")).unwrap();
        let waits = ["archive_wait = \"30s\"", "archive_wait = \"1s\""];
        let (before, after) = if impatient { (waits[0], waits[1]) } else { (waits[1], waits[0]) };
        fs::write(self.path("R/recoup.toml"), config.replace(before, after)).unwrap();
    }

    /// How `init` names a cluster.
    pub(crate) fn source(&self, name: &str) -> String {
        let socket = self.path(&format!("{name}.socket"));
        let place = format!("host={}&port=5432&user=postgres", socket.display());
        format!("ledger=postgres:{}?{place}", self.path(name).display())
    }

    #[track_caller]
    pub(crate) fn backup(&self, arguments: &[&str]) -> Run {
        run(self.recoup(["backup", "ledger", "--json"]).args(arguments))
    }

    /// Restores the newest snapshot and starts a server on it that recovers to the end of the archive.
    #[track_caller]
    pub(crate) fn restore_and_start(&mut self, name: &str) {
        let target = ["restore", "ledger", "--identity", "R/custodian.age", "--target", "latest", "--to", name];
        run(&mut self.recoup(target)).expect_code(0);
        let identity = self.path("R/custodian.age");
        let fetch = format!("{} fetch ledger %f %p --identity {}", self.archive(), identity.display());
        let restore = format!("restore_command = '{fetch}'\n");
        // Tablespaces are directories of the restored data directory.
        self.configure(name, &format!("archive_mode = off\nallow_in_place_tablespaces = on\n{restore}"));
        fs::write(self.path(name).join("recovery.signal"), "").unwrap();
        fs::set_permissions(self.path(name), PermissionsExt::from_mode(0o700)).unwrap();
        self.own(&format!("{name}/recovery.signal"));
        self.start(name);
    }

    /// Restores into a directory.
    pub(crate) fn restore_to(&self, name: &str, target: &str, extra: &[&str]) -> Run {
        let fixed = ["restore", "ledger", "--identity", "R/custodian.age", "--target", target, "--to", name];
        run(self.recoup(fixed).args(extra))
    }

    /// Starts what was restored, and waits until it has recovered.
    #[track_caller]
    pub(crate) fn start_restored(&mut self, name: &str) {
        self.configure(name, "");
        self.start(name);
        self.wait_for(name, "SELECT pg_is_in_recovery()", "f");
    }

    /// Waits until a query gives a text.
    #[track_caller]
    pub(crate) fn wait_for(&self, name: &str, query: &str, wanted: &str) {
        for _ in 0..600 {
            if self.sql(name, "postgres", &[query]) == wanted {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        panic!("{query} never gave {wanted}");
    }

    /// Transfers until it is stopped.
    pub(crate) fn traffic(&self) -> Traffic {
        let script = self.path("transfer.sql");
        fs::write(&script, TRANSFER).unwrap();
        let mut pgbench = self.program("pgbench");
        pgbench.arg("-h").arg(self.path("data.socket")).args(["-U", "postgres", "-n", "-c", "2", "-T", "600"]);
        pgbench.args(["--max-tries=100", "-R", "400", "-f"]).arg(script).arg("ledger");
        Traffic(pgbench.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

/// Transfers in the background.
pub(crate) struct Traffic(Child);

impl Traffic {
    pub(crate) fn is_running(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const TRANSFER: &str = "\\set a random(1, 100)\n\\set b :a + 3 * random(1, 33)\n\\set amount random(1, 1000)\nBEGIN;\n\
    INSERT INTO posting (account, currency, amount_minor) SELECT id, currency, \
    CASE id WHEN :a THEN -:amount ELSE :amount END FROM account WHERE id IN (:a, :b);\n\
    UPDATE account SET balance_minor = balance_minor - :amount WHERE id = :a;\n\
    UPDATE account SET balance_minor = balance_minor + :amount WHERE id = :b;\nCOMMIT;\n";

/// A ledger of two hundred accounts in three currencies.
pub(crate) const LEDGER: &[&str] = &[
    "CREATE TABLE account (id int PRIMARY KEY, currency text NOT NULL, balance_minor bigint NOT NULL DEFAULT 0) \
     WITH (fillfactor = 50)",
    "INSERT INTO account SELECT g, (ARRAY['EUR', 'GBP', 'SEK'])[g % 3 + 1] FROM generate_series(1, 200) g",
    "CREATE TABLE posting (id bigserial PRIMARY KEY, account int NOT NULL REFERENCES account, \
     currency text NOT NULL, amount_minor bigint NOT NULL)",
    "CREATE TABLE filler AS SELECT g AS id, md5(g::text) || md5((g + 1)::text) AS text FROM generate_series(1, 30000) g",
    "CREATE UNLOGGED TABLE scratch AS SELECT generate_series(1, 1000) AS id",
];

/// Whether the postings of each currency sum to zero, and every account's balance is what its postings make.
pub(crate) const BALANCED: &str = "SELECT NOT EXISTS (SELECT FROM posting GROUP BY currency HAVING sum(amount_minor) <> 0) AND NOT EXISTS ( \
    SELECT FROM account a LEFT JOIN (SELECT account, currency, sum(amount_minor) AS sum FROM posting GROUP BY 1, 2) p \
    ON p.account = a.id WHERE a.balance_minor <> coalesce(p.sum, 0) OR p.currency <> a.currency)";

/// A process of this machine.
pub(crate) struct Process {
    pub(crate) number: i32,
    pub(crate) command: String,
    cwd: Option<PathBuf>,
}

/// All of them.
pub(crate) fn processes() -> Vec<Process> {
    let found = fs::read_dir("/proc").unwrap().flatten();
    let number = |entry: &fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    let process = |entry: fs::DirEntry| {
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        Some(Process { number: number(&entry)?, command, cwd: fs::read_link(entry.path().join("cwd")).ok() })
    };
    found.filter_map(process).collect()
}

/// Kills one; it may be gone already.
pub(crate) fn kill(number: i32) {
    let _ = kill_process(Pid::from_raw(number).unwrap(), Signal::KILL);
}

/// Gives what lies below a directory to the user who runs clusters.
pub(crate) fn own(dir: &Path, name: &str) {
    if is_root() {
        let owner = format!("{OWNER}:{OWNER}");
        run(program("chown", dir).args(["-R", "--no-dereference", &owner, name])).expect_code(0);
    }
}

/// Any program, as the user who runs clusters.
pub(crate) fn as_owner(dir: &Path, name: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = if is_root() {
        let mut command = program("setpriv", dir);
        let ids = [format!("--reuid={OWNER}"), format!("--regid={OWNER}")];
        command.args(ids).args(["--clear-groups", "--no-new-privs", "--"]).arg(name);
        command
    } else {
        program(name.as_ref().to_str().unwrap(), dir)
    };
    command.env("HOME", dir).env("TMPDIR", dir).env("LC_ALL", "C");
    command
}

fn is_root() -> bool {
    world::user_id() == 0
}

/// The folder of a version's programs, where the user who runs clusters can reach it.
pub(crate) fn programs(name: &str) -> PathBuf {
    assert!(is_installed(name), "ask needs({name:?}) first");
    let path = world::environment("PATH").unwrap_or_default();
    let found = path.split(':').map(|dir| Path::new(dir).join(name)).find(|found| found.is_file()).unwrap();
    let bin = found.canonicalize().unwrap().parent().unwrap().to_owned();
    let is_open = |dir: &&Path| fs::metadata(dir).is_ok_and(|found| found.mode() & 0o005 == 0o005);
    if !is_root() || bin.ancestors().all(|dir| is_open(&dir)) {
        return bin;
    }
    // Below the home of root, for example: a copy for all tests of a run.
    let shared = world::temporary_dir().join(format!("recoup-{name}"));
    let lock = fs::File::create(shared.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    if !shared.exists() {
        let unfinished = shared.with_extension("new");
        let mut copy = program("cp", &world::temporary_dir());
        // With the libraries, which lie beside the package that the programs are in.
        run(copy.arg("-r").arg(bin.ancestors().nth(3).unwrap()).arg(&unfinished)).expect_code(0);
        run(program("chmod", &world::temporary_dir()).args(["-R", "a+rX"]).arg(&unfinished)).expect_code(0);
        fs::rename(&unfinished, &shared).unwrap();
    }
    shared.join(bin.strip_prefix(bin.ancestors().nth(3).unwrap()).unwrap())
}
