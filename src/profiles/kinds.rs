//! What every kind of application takes part in, made from one list.
//!
//! `profiles!` makes [`ProfileKind`](super::ProfileKind), [`Keys`](super::Keys) and [`Archive`](super::Archive), with
//! one variant for each kind. Each passes every question on to the kind's own
//! [`KnownArchive`](super::archive::KnownArchive), so a new kind is one line of the list.

macro_rules! profiles {
    ($($kind:ident: $archive:ty),+ $(,)?) => {
        /// A kind of application that packvault knows.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum ProfileKind {
            $(#[doc = concat!("What `", stringify!($archive), "` is an archive of.")] $kind),+
        }

        /// What a section of the configuration says in the keys that its kind alone has.
        #[derive(Debug, Clone)]
        pub enum Keys {
            $(#[doc = concat!("Of a `", stringify!($archive), "`.")]
            $kind(<$archive as KnownArchive>::Keys)),+
        }

        /// An archive on this machine.
        #[derive(Debug, Clone)]
        pub enum Archive {
            $(#[doc = concat!("A `", stringify!($archive), "`.")] $kind($archive)),+
        }

        impl ProfileKind {
            /// Every kind; the first is meant where a configuration names none.
            pub const ALL: &'static [Self] = &[$(Self::$kind),+];

            /// Returns its name in configuration files and in statistics.
            pub fn name(self) -> &'static str {
                match self { $(Self::$kind => <$archive>::NAME),+ }
            }

            /// Returns the keys that a section has for this kind alone.
            pub fn own_keys(self) -> &'static [&'static str] {
                match self { $(Self::$kind => <$archive>::KEYS),+ }
            }

            /// Returns whether the name of the database file tells one application from another.
            pub fn is_known_by_its_file(self) -> bool {
                match self { $(Self::$kind => <$archive>::IS_KNOWN_BY_ITS_FILE),+ }
            }

            /// Reads the keys of this kind.
            pub fn read_keys<'de, D: Deserializer<'de>>(self, keys: D) -> std::result::Result<Keys, D::Error> {
                match self { $(Self::$kind => Deserialize::deserialize(keys).map(Keys::$kind)),+ }
            }

            /// Returns what is known of the application that recorded these statistics.
            pub fn of_stats(self, stats: &str) -> Result<Arc<dyn Profile>> {
                match self { $(Self::$kind => <$archive>::of_stats(stats)),+ }
            }
        }

        impl Keys {
            /// Returns the kind that has these keys.
            pub fn kind(&self) -> ProfileKind {
                match self { $(Self::$kind(_) => ProfileKind::$kind),+ }
            }

            /// Returns the name of a key that is missing.
            pub fn missing_key(&self) -> Option<&'static str> {
                match self { $(Self::$kind(keys) => <$archive>::missing_key(keys)),+ }
            }

            /// Returns the archive that lies in a place.
            pub fn archive_at(&self, place: &Place<'_>) -> Result<Archive> {
                match self { $(Self::$kind(keys) => <$archive>::at(place, keys).map(Archive::$kind)),+ }
            }
        }

        impl Archive {
            /// Returns where its parts lie.
            pub fn paths(&self) -> ArchivePaths {
                match self { $(Self::$kind(archive) => archive.paths()),+ }
            }

            /// Returns what is known of its application.
            pub fn profile(&self) -> Arc<dyn Profile> {
                match self { $(Self::$kind(archive) => archive.profile()),+ }
            }

            /// Returns where the application itself says that its backups go.
            pub fn repository(&self, expand: ExpandHome<'_>) -> Result<Option<PathBuf>> {
                match self { $(Self::$kind(archive) => archive.repository(expand)),+ }
            }

            /// Returns the zstd level that the application itself says.
            pub fn zstd_level(&self) -> Option<i32> {
                match self { $(Self::$kind(archive) => archive.zstd_level()),+ }
            }
        }

        /// Returns where else than in a home an archive there is in use, of whatever kind it is.
        pub fn elsewhere(home: &Path, expand: ExpandHome<'_>) -> Vec<LiveHome> {
            let mut found = Vec::new();
            $(found.extend(<$archive>::elsewhere(home, expand));)+
            found
        }
    };
}

pub(super) use profiles;
