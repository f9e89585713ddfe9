//! The server that a bucket is on, by all its names.

use super::super::StoreSpec;
use crate::core::s3::{Address, Endpoint};

/// The region that servers other than Amazon's go by unless told otherwise.
const REGION_ELSEWHERE: &str = "us-east-1";

/// Where requests for a bucket go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    endpoint: Endpoint,
    bucket: String,
    path_style: bool,
    /// The region that requests are signed for.
    pub(super) region: String,
}

impl Server {
    pub(super) fn of(spec: &StoreSpec, address: &Address) -> Self {
        let region = spec.place.region.clone().unwrap_or_else(|| REGION_ELSEWHERE.to_owned());
        let endpoint = spec.s3.endpoint.clone().unwrap_or_else(|| Endpoint::of_amazon(&region));
        let path_style = spec.s3.is_path_style(address);
        Server { endpoint, bucket: address.bucket.clone(), path_style, region }
    }

    pub(super) fn is_secure(&self) -> bool {
        self.endpoint.is_secure()
    }

    pub(super) fn is_path_style(&self) -> bool {
        self.path_style
    }

    /// What object_store takes for the endpoint: with the bucket, unless that goes into the path.
    pub(super) fn url(&self) -> String {
        format!("{}://{}", self.endpoint.scheme(), self.authority())
    }

    /// The host and port that requests for the bucket go to. All others are for credentials.
    pub(super) fn authority(&self) -> String {
        match (self.path_style, self.endpoint.authority()) {
            (true, authority) => authority.to_owned(),
            (false, authority) => format!("{}.{authority}", self.bucket),
        }
    }

    pub(super) fn bucket(&self) -> &str {
        &self.bucket
    }

    /// The server as people write it.
    pub(super) fn shown(&self) -> String {
        self.endpoint.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{policy::Place, s3::Options};

    fn server(bucket: &str, region: Option<&str>, options: Options) -> Server {
        let place = Place { region: region.map(str::to_owned), provider: None };
        let spec = StoreSpec { place, s3: options, ..StoreSpec::default() };
        Server::of(&spec, &format!("s3://{bucket}/a").parse().unwrap())
    }

    #[test]
    fn buckets_are_found_by_region_or_endpoint() {
        let endpoint = |text: &str| Options { endpoint: text.parse().ok(), ..Options::default() };
        let amazon = server("acme", Some("eu-central-1"), Options::default());
        assert_eq!(
            (amazon.url().as_str(), amazon.is_path_style()),
            ("https://acme.s3.eu-central-1.amazonaws.com", false)
        );
        let china = server("acme", Some("cn-north-1"), Options::default());
        assert_eq!(china.url(), "https://acme.s3.cn-north-1.amazonaws.com.cn");
        let dotted = server("acme.dr", Some("eu-central-1"), Options::default());
        assert_eq!(dotted.url(), "https://s3.eu-central-1.amazonaws.com");
        let elsewhere = server("acme", None, endpoint("http://localhost:9000"));
        assert_eq!((elsewhere.url().as_str(), elsewhere.region.as_str()), ("http://localhost:9000", "us-east-1"));
        let hosted = server("acme", None, Options { path_style: Some(false), ..endpoint("https://a:9000") });
        assert_eq!((hosted.url(), hosted.authority()), ("https://acme.a:9000".to_owned(), "acme.a:9000".to_owned()));
    }
}
