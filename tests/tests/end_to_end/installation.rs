//! The installation itself.

use penstock_tests::kubernetes::{Cluster, Installation};

use crate::Outcome;

#[tokio::test]
async fn helm_test_succeeds() -> Outcome {
    let cluster = Cluster::shared().await?;
    let said = Installation::shared(cluster).await?.test()?;
    let phases: Vec<&str> = said
        .lines()
        .filter(|line| line.starts_with("Phase:"))
        .collect();
    assert_eq!(phases.len(), 1, "{said}");
    assert!(phases[0].ends_with("Succeeded"), "{said}");
    Ok(())
}
