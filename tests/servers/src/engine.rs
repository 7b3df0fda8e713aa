//! The engine that runs containers, as testcontainers speaks to it: pulls what is not here, starts it, and maps
//! its port to loopback.
//!
//! Removes nothing that has started: that is its caller's, who must not depend on a destructor.

use std::net::Ipv4Addr;
use std::sync::{LazyLock, mpsc};
use std::time::Duration;

use testcontainers::core::IntoContainerPort;
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, ContainerRequest, GenericImage, ImageExt, TestcontainersError};
use tokio::runtime::{Builder, Runtime};

use crate::container::Image;

/// How long the engine may take to start what it has.
const START_MAX: Duration = Duration::from_secs(120);

/// The one runtime in which testcontainers' client lives, whatever runtime its callers have.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("threads can be started")
});

/// A container that nobody removes: its destructor, which would, does not run.
pub(crate) type Running = &'static ContainerAsync<GenericImage>;

/// Starts a container of that name; returns it with the port on which it is reached.
pub(crate) fn run(image: &Image, name: &str) -> Result<(Running, u16), TestcontainersError> {
    let (request, port) = (request(image, name), image.port);
    block_on(async move {
        let running: Running = Box::leak(Box::new(request.start().await?));
        Ok((running, running.get_host_port_ipv4(port.tcp()).await?))
    })
}

/// Tells whether the container has not ended.
pub(crate) fn is_running(running: Running) -> bool {
    block_on(running.is_running()).unwrap_or(false)
}

/// Returns the end of what the container has logged.
pub(crate) fn last_words(running: Running) -> String {
    let streams = [block_on(running.stdout_to_vec()), block_on(running.stderr_to_vec())];
    let text = streams.map(Result::unwrap_or_default).concat();
    String::from_utf8_lossy(&text).lines().last().unwrap_or("it has logged nothing").to_owned()
}

fn request(image: &Image, name: &str) -> ContainerRequest<GenericImage> {
    let (untagged, tag) = split_tag(&image.name);
    let request = GenericImage::new(untagged, tag)
        .with_container_name(name)
        .with_cmd(&image.command)
        .with_mapped_port(0, image.port.tcp())
        .with_startup_timeout(START_MAX)
        .with_host_config_modifier(|config| {
            let ports = config.port_bindings.iter_mut().flat_map(|ports| ports.values_mut());
            for binding in ports.flatten().flatten() {
                binding.host_ip = Some(Ipv4Addr::LOCALHOST.to_string());
            }
        });
    let set =
        |request: ContainerRequest<_>, (name, value): &(String, String)| request.with_env_var(name, value);
    image.environment.iter().fold(request, set)
}

/// Splits `image:tag`; a registry may have a port, so a tag holds no slash.
fn split_tag(name: &str) -> (&str, &str) {
    match name.rsplit_once(':') {
        Some((image, tag)) if !tag.contains('/') => (image, tag),
        _ => (name, "latest"),
    }
}

/// Runs to the end what needs the runtime of the client, also on a thread of another one.
fn block_on<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    RUNTIME.spawn(async move { sender.send(future.await) });
    receiver.recv().expect("the runtime does not end")
}
