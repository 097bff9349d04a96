//! Scenarios that must hold on either ledger.

/// Makes two tests of each scenario: on Postgres with the lock in Redis, and on SQLite with the lock in the process.
macro_rules! on_both_ledgers {
    ($($scenario:ident),* $(,)?) => {
        mod on_postgres {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $scenario() {
                    super::$scenario(sandbox::world::World::new().await).await;
                }
            )*
        }

        mod on_sqlite {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $scenario() {
                    super::$scenario(sandbox::world::World::on_sqlite().await).await;
                }
            )*
        }
    };
}

pub(crate) use on_both_ledgers;
