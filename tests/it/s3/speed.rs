//! How much longer a bucket on the loopback interface takes than a directory. A measurement: run by hand in a release
//! build, with the program in `RECOUP_TEST_BINARY`.

use super::{ID, SECRET, with_keys};
use crate::site::Site;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::{fs, path::Path, process::Command, sync::Arc, time::Duration};

/// Serves a directory as buckets, until the process ends.
fn serve(dir: &Path) -> String {
    let mut service = s3s::service::S3ServiceBuilder::new(s3s_fs::FileSystem::new(dir).unwrap());
    service.set_auth(s3s::auth::SimpleAuth::from_single(ID, SECRET));
    let service = Arc::new(service.build());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((socket, _)) = listener.accept().await {
                let service = service.clone();
                let answer = service_fn(move |request| {
                    let service = service.clone();
                    async move {
                        let request = hyper::Request::map(request, s3s::Body::from);
                        service.call(request).await.map_err(|error| std::io::Error::other(format!("{error:?}")))
                    }
                });
                let serving = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), answer);
                tokio::spawn(serving);
            }
        });
    });
    format!("http://{address}")
}

fn timed(command: &mut Command) -> Duration {
    let began = recoup::world::Stopwatch::start();
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    began.elapsed()
}

#[test]
#[ignore = "a measurement of some seconds; run it by hand in a release build"]
#[expect(clippy::print_stderr, reason = "the figure is what it is run for")]
fn a_bucket_takes_little_longer_than_a_directory() {
    let site = Site::prepare(crate::support::count_from("RECOUP_TEST_POSTINGS", 1_000_000), &["near"]);
    let buckets = site.path().join("buckets");
    fs::create_dir_all(buckets.join("acme-dr")).unwrap();
    let endpoint = serve(&buckets);
    let program = recoup::world::environment("RECOUP_TEST_BINARY").expect("RECOUP_TEST_BINARY names a release build");
    let found = |name: &str, store: String| {
        let config = site.path().join(name).join("recoup.toml");
        let mut command = Command::new(&program);
        command.arg("--config").arg(&config).arg("init").arg("--store").arg(store);
        command.arg("--source").arg(format!("ledger=sqlite:{}", site.ledger().display()));
        command.arg("--new-identity").arg(site.path().join(name).join("custodian.age"));
        timed(with_keys(&mut command, "FAR"));
        config
    };
    let near = found("near-host", format!("a=file://{}", site.path().join("dir").display()));
    let far = found("far-host", format!("a=s3://acme-dr/x?endpoint={endpoint}&region=us-east-1&credentials_env=FAR"));
    let backup = |config: &Path| {
        let mut command = Command::new(&program);
        command.arg("--config").arg(config).args(["backup", "--full"]);
        timed(with_keys(&mut command, "FAR"))
    };
    let mut fastest = [Duration::MAX; 2];
    for _ in 0..5 {
        for (at, config) in [&near, &far].into_iter().enumerate() {
            fastest[at] = fastest[at].min(backup(config));
        }
    }
    let ratio = fastest[1].as_secs_f64() / fastest[0].as_secs_f64();
    eprintln!("directory {:?}, bucket {:?}, ratio {ratio:.2}", fastest[0], fastest[1]);
    assert!(ratio <= 1.3, "{ratio:.2}");
}
