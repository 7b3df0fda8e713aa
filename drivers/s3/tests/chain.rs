//! Credentials as people have them: found where AWS's own tools find them, fetched anew before they expire,
//! and never shown. The environment is a copy made by the test; the process's own is not touched.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod fake;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use packvault_s3::{Environment, S3Credentials, S3Storage};
use packvault_storage::{ErrorKind, Key, Result, Storage};

use fake::{Fake, say};

/// A home folder, variables, and a server that tells who asked it.
struct Setting {
    home: tempfile::TempDir,
    environment: Environment,
    profile: Option<String>,
    fake: Fake,
}

impl Setting {
    async fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".aws")).unwrap();
        let mut environment = Environment { home: Some(home.path().to_owned()), ..Environment::default() };
        environment.variables.insert("AWS_EC2_METADATA_DISABLED".into(), "true".into());
        let fake = Fake::start(|asked| match asked.target.as_str() {
            "/keys" => say(
                "200 OK",
                "",
                br#"{"AccessKeyId":"CONTAINER","SecretAccessKey":"hush","Token":"hush","Expiration":"2099-01-01T00:00:00Z"}"#,
            ),
            "/sign-on?role_name=backup&account_id=123" => {
                assert_eq!(asked.header("x-amz-sso_bearer_token"), Some("token"));
                say(
                    "200 OK",
                    "",
                    br#"{"roleCredentials":{"accessKeyId":"SIGNEDON","secretAccessKey":"hush","sessionToken":"hush","expiration":4070908800000}}"#,
                )
            }
            "/latest/api/token" if asked.method == "PUT" => say("200 OK", "", b"token"),
            "/latest/meta-data/iam/security-credentials/" => {
                assert_eq!(asked.header("x-aws-ec2-metadata-token"), Some("token"));
                say("200 OK", "", b"backup")
            }
            "/latest/meta-data/iam/security-credentials/backup" => say(
                "200 OK",
                "",
                br#"{"Code":"Success","AccessKeyId":"MACHINE","SecretAccessKey":"hush","Token":"hush","Expiration":"2099-01-01T00:00:00Z"}"#,
            ),
            _ => say("404 Not Found", "", b""),
        })
        .await;
        Self { home, environment, profile: None, fake }
    }

    fn file(&self, name: &str, text: &str) {
        std::fs::write(self.home.path().join(".aws").join(name), text).unwrap();
    }

    fn variable(&mut self, name: &str, value: &str) {
        self.environment.variables.insert(name.into(), value.into());
    }

    fn storage(&self) -> S3Storage {
        let mut config = self.fake.config();
        config.credentials = S3Credentials::Chain(self.environment.clone());
        config.profile.clone_from(&self.profile);
        S3Storage::open(config, None, Arc::default()).unwrap()
    }

    /// Returns who asked and for which region, as the server saw it.
    async fn asked_as(&self, storage: &S3Storage) -> Result<(String, String)> {
        let error = storage.stat(&Key::parse("a").unwrap()).await.unwrap_err();
        if error.kind() != ErrorKind::NotFound {
            return Err(error);
        }
        let asked = self.fake.asked.lock().unwrap().last().cloned().unwrap();
        let scope = asked.header("authorization").unwrap().split("Credential=").nth(1).unwrap().to_owned();
        let mut parts = scope.split('/');
        Ok((parts.next().unwrap().to_owned(), parts.nth(1).unwrap().to_owned()))
    }

    async fn found(&self) -> (String, String) {
        self.asked_as(&self.storage()).await.unwrap()
    }
}

fn pair(id: &str, region: &str) -> (String, String) {
    (id.to_owned(), region.to_owned())
}

/// Writes a program that counts its runs and prints keys.
fn program(folder: &Path, expiration: &str) -> String {
    let path = folder.join("keys.sh");
    let runs = folder.join("runs");
    let text = format!(
        "#!/bin/sh\necho run >> {runs}\nid=PROCESS$(grep -c run {runs})\n\
         echo \"{{\\\"Version\\\":1,\\\"AccessKeyId\\\":\\\"$id\\\",\\\"SecretAccessKey\\\":\\\"hush\\\",\
         \\\"SessionToken\\\":\\\"hush\\\",\\\"Expiration\\\":\\\"{expiration}\\\"}}\"\n",
        runs = runs.display()
    );
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    path.display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_come_first_unless_a_profile_is_named() {
    let mut setting = Setting::new().await;
    setting.file("credentials", "[default]\naws_access_key_id=SHARED\naws_secret_access_key=hush\n[work]\naws_access_key_id=WORK\naws_secret_access_key=hush\n");
    setting.file("config", "[default]\nregion=eu-central-1\n[profile work]\nregion=eu-west-3\n");
    assert_eq!(setting.found().await, pair("SHARED", "eu-central-1"));
    setting.variable("AWS_ACCESS_KEY_ID", "VARIABLE");
    setting.variable("AWS_SECRET_ACCESS_KEY", "hush");
    assert_eq!(setting.found().await, pair("VARIABLE", "eu-central-1"));
    setting.profile = Some("work".into());
    assert_eq!(setting.found().await, pair("WORK", "eu-west-3"));
    setting.variable("AWS_REGION", "sa-east-1");
    assert_eq!(setting.found().await, pair("WORK", "sa-east-1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_lie_where_the_variables_say() {
    let mut setting = Setting::new().await;
    let path = setting.home.path().join("elsewhere");
    std::fs::write(&path, "[nas]\naws_access_key_id=ELSEWHERE\naws_secret_access_key=hush\n").unwrap();
    setting.variable("AWS_SHARED_CREDENTIALS_FILE", path.to_str().unwrap());
    setting.variable("AWS_PROFILE", "nas");
    assert_eq!(setting.found().await, pair("ELSEWHERE", "us-east-1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_gives_keys_that_are_kept_while_they_hold() {
    let setting = Setting::new().await;
    let program = program(setting.home.path(), "2099-01-01T00:00:00Z");
    setting.file("config", &format!("[default]\ncredential_process = {program}\n"));
    let storage = setting.storage();
    for _ in 0..3 {
        assert_eq!(setting.asked_as(&storage).await.unwrap().0, "PROCESS1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_expire_soon_are_fetched_anew() {
    let setting = Setting::new().await;
    let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(200);
    let program = program(setting.home.path(), &soon.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    setting.file("config", &format!("[default]\ncredential_process = {program}\n"));
    let storage = setting.storage();
    assert_eq!(setting.asked_as(&storage).await.unwrap().0, "PROCESS1");
    assert_eq!(setting.asked_as(&storage).await.unwrap().0, "PROCESS2");
    // While they hold, a source that fails stops nothing.
    std::fs::remove_file(setting.home.path().join("keys.sh")).unwrap();
    assert_eq!(setting.asked_as(&storage).await.unwrap().0, "PROCESS2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_asked_at_the_address_of_its_variable() {
    let mut setting = Setting::new().await;
    let keys = format!("{}/keys", setting.fake.endpoint);
    setting.variable("AWS_CONTAINER_CREDENTIALS_FULL_URI", &keys);
    assert_eq!(setting.found().await.0, "CONTAINER");
}

/// Writes the token of a sign-on, as `aws sso login` does: the file is named after what was signed on to.
fn signed_on(setting: &Setting, sha1_of_name: &str) {
    let folder = setting.home.path().join(".aws/sso/cache");
    std::fs::create_dir_all(&folder).unwrap();
    let token = r#"{"accessToken":"token","expiresAt":"2099-01-01T00:00:00Z"}"#;
    std::fs::write(folder.join(format!("{sha1_of_name}.json")), token).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_on_is_found_in_either_spelling_of_its_profile() {
    const SHA1_OF_HOME: &str = "e83249bd3ba79932e16fb1fb5100dafade9954c2";
    const SHA1_OF_URL: &str = "cff035caee6b12df6787d81bb8c079ea3b53e49e";
    let start = "sso_region = eu-west-1\nsso_start_url = https://example.org/start\n";
    let role = "sso_account_id = 123\nsso_role_name = backup\n";
    let with_session = format!("[default]\nsso_session = home\n{role}[sso-session home]\n{start}");
    let without = format!("[default]\n{start}{role}");
    for (config, sha1_of_name) in [(with_session, SHA1_OF_HOME), (without, SHA1_OF_URL)] {
        let mut setting = Setting::new().await;
        let endpoint = format!("{}/sign-on", setting.fake.endpoint);
        setting.variable("AWS_SSO_ENDPOINT", &endpoint);
        setting.file("config", &config);
        let error = setting.asked_as(&setting.storage()).await.unwrap_err();
        assert!(error.to_string().contains("aws sso login"), "{error}");
        signed_on(&setting, sha1_of_name);
        assert_eq!(setting.found().await.0, "SIGNEDON", "{config}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_of_the_cloud_is_asked_for_the_keys_of_its_role() {
    let mut setting = Setting::new().await;
    let endpoint = setting.fake.endpoint.clone();
    setting.variable("AWS_EC2_METADATA_DISABLED", "false");
    setting.variable("AWS_EC2_METADATA_SERVICE_ENDPOINT", &endpoint);
    assert_eq!(setting.found().await.0, "MACHINE");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_credentials_is_an_error_that_says_what_was_tried_and_shows_no_secret() {
    let setting = Setting::new().await;
    let error = setting.asked_as(&setting.storage()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("no credentials were found; set AWS_ACCESS_KEY_ID"), "{error}");
    let path = setting.home.path().join("bad.sh");
    std::fs::write(&path, "#!/bin/sh\necho '{\"Version\":\"hush\",\"SecretAccessKey\":\"hush\"}'\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    setting.file("config", &format!("[default]\ncredential_process = {}\n", path.display()));
    let storage = setting.storage();
    let error = setting.asked_as(&storage).await.unwrap_err();
    assert!(error.to_string().contains("process: "), "{error}");
    assert!(!format!("{error} {error:?} {storage:?}").contains("hush"), "{error} {error:?}");
    // Nor what it says when it fails.
    std::fs::write(&path, "#!/bin/sh\necho hush >&2\nexit 3\n").unwrap();
    let storage = setting.storage();
    let error = setting.asked_as(&storage).await.unwrap_err();
    assert!(error.to_string().contains("process failed with status 3"), "{error}");
    assert!(!format!("{error} {error:?} {storage:?}").contains("hush"), "{error} {error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_anonymous_request_is_not_signed() {
    let setting = Setting::new().await;
    let mut config = setting.fake.config();
    config.credentials = S3Credentials::Anonymous;
    let storage = S3Storage::open(config, None, Arc::default()).unwrap();
    assert_eq!(storage.stat(&Key::parse("a").unwrap()).await.unwrap_err().kind(), ErrorKind::NotFound);
    let asked = setting.fake.asked.lock().unwrap().last().cloned().unwrap();
    assert_eq!(asked.header("authorization"), None);
}
