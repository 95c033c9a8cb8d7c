//! The versions of a schema, compiled into the program.

use sqlx::{
    SqlSafeStr,
    migrate::{Migration, MigrationType, Migrator},
};

/// The versions in these files, by name and text, in their order. Never edit one that was released; add the next. (What
/// `sqlx::migrate!` would read from the folder; but with it, every program's build compiles the drivers a second time.)
pub(crate) fn migrator(files: &[(&'static str, &'static str)]) -> Migrator {
    let migration = |(version, &(name, sql)): (i64, &(&'static str, &'static str))| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations((1..).zip(files).map(migration).collect())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;

    use super::*;

    /// The versions of a migrator are the files of a folder, all and unchanged.
    pub(crate) fn are_those_of(folder: &str, migrator: &Migrator) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(folder);
        let mut files: Vec<_> = std::fs::read_dir(folder)
            .expect("the folder")
            .map(|file| file.expect("a file").path())
            .map(|path| {
                (path.file_name().expect("a name").display().to_string(), std::fs::read_to_string(path))
            })
            .collect();
        files.sort_by(|one, other| one.0.cmp(&other.0));
        let known = migrator.iter().map(|version| {
            (format!("{:04}_{}.sql", version.version, version.description), version.sql.as_str())
        });
        let known: Vec<_> = known.collect();
        assert_eq!(files.len(), known.len(), "{known:?}");
        for (file, known) in files.iter().zip(known) {
            assert_eq!((file.0.as_str(), file.1.as_deref().expect("a text")), (known.0.as_str(), known.1));
        }
    }
}
