//! MinIO in a container; any image that speaks S3 can take its place, by environment variables.

use crate::Missing;
use crate::container::{Container, Image, answer, variable_or};
use crate::s3::{S3Place, make_bucket};

/// The image that is started unless the environment names another: the one in `docker-compose.yml`.
const IMAGE: &str = "minio/minio:RELEASE.2025-04-22T22-12-26Z";

const IMAGE_VARIABLE: &str = "PACKVAULT_MINIO_IMAGE";

/// A running MinIO.
#[derive(Debug)]
pub struct Minio {
    place: S3Place,
    _container: Container,
}

impl Minio {
    /// Starts one, with a bucket.
    pub fn start() -> Result<Self, Missing> {
        let access_key_id = variable_or("PACKVAULT_MINIO_ACCESS_KEY_ID", "packvault");
        let secret_access_key = variable_or("PACKVAULT_MINIO_SECRET_ACCESS_KEY", "packvault-try");
        let port = variable_or("PACKVAULT_MINIO_PORT", "9000");
        let image = Image {
            server: "minio",
            name: variable_or(IMAGE_VARIABLE, IMAGE),
            command: words(&variable_or("PACKVAULT_MINIO_COMMAND", "server /data --address :9000")),
            environment: vec![
                ("MINIO_ROOT_USER".to_owned(), access_key_id.clone()),
                ("MINIO_ROOT_PASSWORD".to_owned(), secret_access_key.clone()),
            ],
            port: port.parse().expect("PACKVAULT_MINIO_PORT is a number"),
        };
        let container = image.start(speaks_s3)?;
        let place = S3Place {
            endpoint: format!("http://127.0.0.1:{}", container.port),
            region: "us-east-1".to_owned(),
            bucket: "packvault".to_owned(),
            access_key_id,
            secret_access_key,
        };
        make_bucket(&place);
        Ok(Self { place, _container: container })
    }

    /// Tells whether the environment names another image, of which nothing is known beforehand.
    pub fn is_replaced() -> bool {
        std::env::var_os(IMAGE_VARIABLE).is_some_and(|image| image != IMAGE)
    }

    /// Returns where it listens.
    pub fn place(&self) -> &S3Place {
        &self.place
    }
}

/// Tells whether requests are answered, be it with a refusal; a server that still begins says 503.
fn speaks_s3(port: u16) -> bool {
    let request = format!("GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
    answer(port, &request).is_some_and(|answer| answer.starts_with(b"HTTP/1.1 ") && answer[9] < b'5')
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_image_is_the_one_to_try_it_with() {
        assert!(include_str!("../../../docker-compose.yml").contains(super::IMAGE));
    }
}
