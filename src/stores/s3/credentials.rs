//! Who asks: keys from the environment, or what the machine itself is given.

use super::super::StoreSpec;
use crate::{
    core::failure::{Code, Failure},
    world,
};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey as Key};

/// What requests are signed with. Secrets: it cannot be printed.
pub(super) enum Credentials {
    Keys {
        id: String,
        secret: String,
        token: Option<String>,
    },
    /// What object_store asks others for, and what it needs to know for that: web identity, container, machine.
    Lent(Vec<(Key, String)>),
}

/// The variables of those who are lent credentials; without one of the first three it is the machine that is asked.
const LENDERS: [(&str, Key); 6] = [
    ("AWS_WEB_IDENTITY_TOKEN_FILE", Key::WebIdentityTokenFile),
    ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", Key::ContainerCredentialsRelativeUri),
    ("AWS_CONTAINER_CREDENTIALS_FULL_URI", Key::ContainerCredentialsFullUri),
    ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", Key::ContainerAuthorizationTokenFile),
    ("AWS_ROLE_ARN", Key::RoleArn),
    ("AWS_ROLE_SESSION_NAME", Key::RoleSessionName),
];
/// How many of them say that somebody lends.
const LENDERS_NAMED: usize = 3;

/// The variables of this environment that a store's credentials come from: whoever else reads the store needs them, too.
pub(in crate::stores) fn variables(spec: &StoreSpec) -> Vec<String> {
    let prefix = spec.s3.credentials_prefix();
    let keys = ["ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN"].map(|name| format!("{prefix}_{name}"));
    let is_set = |name: &String| world::environment(name).is_some();
    if is_set(&keys[0]) {
        return keys.into_iter().filter(is_set).collect();
    }
    LENDERS.into_iter().map(|(name, _)| name.to_owned()).filter(is_set).collect()
}

impl Credentials {
    /// Finds the credentials of a store.
    pub(super) fn from_environment(spec: &StoreSpec) -> Result<Self, Failure> {
        Credentials::find(spec, &world::environment)
    }

    fn find(spec: &StoreSpec, environment: &dyn Fn(&str) -> Option<String>) -> Result<Self, Failure> {
        let prefix = spec.s3.credentials_prefix();
        let [id_name, secret_name, token_name] =
            ["ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN"].map(|name| format!("{prefix}_{name}"));
        let missing = |cause: String| {
            Failure::new(Code::Store, format!("store {}: there are no credentials for {}", spec.name, spec.url))
                .cause(cause)
                .safe("the other stores are used; nothing was asked of this one")
                .next_step(format!("set {id_name} and {secret_name} in the environment that recoup runs in"))
        };
        match (environment(&id_name), environment(&secret_name)) {
            (Some(id), Some(secret)) => {
                return Ok(Credentials::Keys { id, secret, token: environment(&token_name) });
            }
            (Some(_), None) => return Err(missing(format!("{id_name} is set, {secret_name} is not"))),
            (None, Some(_)) => return Err(missing(format!("{secret_name} is set, {id_name} is not"))),
            (None, None) if spec.s3.credentials_env.is_some() => return Err(missing(format!("{id_name} is not set"))),
            (None, None) => {}
        }
        let found = |(name, key): (&str, Key)| environment(name).map(|value| (key, value));
        let lends = LENDERS[..LENDERS_NAMED].iter().any(|(name, _)| environment(name).is_some());
        // A machine's own credentials are for Amazon, and only a machine of Amazon has any.
        let asks_machine = spec.s3.endpoint.is_none()
            && environment("AWS_EC2_METADATA_DISABLED").is_none_or(|value| !value.eq_ignore_ascii_case("true"));
        if lends || asks_machine {
            Ok(Credentials::Lent(LENDERS.into_iter().filter_map(found).collect()))
        } else {
            Err(missing(format!("{id_name} is not set")))
        }
    }

    pub(super) fn give_to(self, builder: AmazonS3Builder) -> AmazonS3Builder {
        match self {
            Credentials::Keys { id, secret, token } => {
                let builder = builder.with_access_key_id(id).with_secret_access_key(secret);
                match token {
                    Some(token) => builder.with_token(token),
                    None => builder,
                }
            }
            Credentials::Lent(values) => {
                values.into_iter().fold(builder, |builder, (key, value)| builder.with_config(key, value))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::s3::Options;

    fn find(set: &[&str], options: Options) -> Result<Credentials, Failure> {
        let spec = StoreSpec { name: "far".into(), url: "s3://acme".into(), s3: options, ..StoreSpec::default() };
        Credentials::find(&spec, &|name| set.contains(&name).then(|| format!("secret of {name}")))
    }

    #[test]
    fn keys_come_from_the_environment() {
        let both = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];
        let found = find(&both, Options::default());
        assert!(
            matches!(found, Ok(Credentials::Keys { id, token: Some(_), .. }) if id == "secret of AWS_ACCESS_KEY_ID")
        );
        let own = || Options { credentials_env: Some("FAR".to_owned()), ..Options::default() };
        let far = ["FAR_ACCESS_KEY_ID", "FAR_SECRET_ACCESS_KEY"];
        assert!(matches!(find(&far, own()), Ok(Credentials::Keys { id, token: None, .. }) if id.contains("FAR")));
        for (set, options, why) in [
            (&both[..], own(), "FAR_ACCESS_KEY_ID is not set"),
            (&both[..1], Options::default(), "AWS_SECRET_ACCESS_KEY is not"),
            (&both[1..2], Options::default(), "AWS_ACCESS_KEY_ID is not"),
            (&[], Options { endpoint: "https://a".parse().ok(), ..Options::default() }, "AWS_ACCESS_KEY_ID is not set"),
            (&[], own(), "FAR_ACCESS_KEY_ID is not set"),
        ] {
            let Err(failure) = find(set, options) else { panic!("{why}: found") };
            assert_eq!(failure.code, Code::Store);
            let told = format!("{failure} {:?}", failure.next_step);
            assert!(told.contains(why) && !told.contains("secret of"), "{told}");
        }
    }

    #[test]
    fn a_machine_may_be_lent_credentials() {
        assert!(matches!(find(&[], Options::default()), Ok(Credentials::Lent(values)) if values.is_empty()));
        let web = ["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"];
        assert!(matches!(find(&web, Options::default()), Ok(Credentials::Lent(values)) if values.len() == 2));
    }
}
