"""What may take pods away on purpose, and how many at once."""

from lightkube.models.policy_v1 import PodDisruptionBudgetSpec
from lightkube.resources.policy_v1 import PodDisruptionBudget

from deploykit.deploy.facts import ModelFacts
from deploykit.deploy.names import kind_of, metadata, pod_selector


def disruption_budget(facts: ModelFacts) -> PodDisruptionBudget:
    """Return the budget: one pod at a time leaves a node that is drained, at any number of pods.

    A pod that isn't ready serves nobody and must not hold up the node: `AlwaysAllow`. (`minAvailable` would block
    every drain as soon as the scaler is down at it.)
    """
    return PodDisruptionBudget(
        **kind_of(PodDisruptionBudget),
        metadata=metadata(facts),
        spec=PodDisruptionBudgetSpec(
            maxUnavailable=1, selector=pod_selector(facts), unhealthyPodEvictionPolicy="AlwaysAllow"
        ),
    )
