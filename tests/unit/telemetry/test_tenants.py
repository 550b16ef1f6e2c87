"""Requests by tenant: configured names, and all others together."""

from collections import Counter

from batcher.core.commands import Outcome, Reason
from batcher.telemetry import AdmissionReason


def counts(registry):
    return {
        (sample.labels["tenant"], sample.labels["outcome"]): sample.value
        for metric in registry.collect()
        if metric.name == "batcher_tenant_requests"
        for sample in metric.samples
    }


def test_without_configured_tenants_there_are_no_series(model, registry, stamps):
    model.tells_tenants_apart(())
    model.request_ended(
        Outcome.OK, Reason.NONE, 1, stamps(1, 1, 1, 1, 1, 1, 2), None, tenant="gold"
    )
    assert counts(registry) == {}


def test_every_end_counts_for_its_tenant(model, registry, stamps):
    model.tells_tenants_apart(("gold", "default"))
    assert set(counts(registry)) == {
        (tenant, outcome) for tenant in ("gold", "other") for outcome in Outcome
    }
    for tenant in ("gold", "gold", "default", "", "made up"):
        model.request_ended(
            Outcome.OK, Reason.NONE, 1, stamps(1, 1, 1, 1, 1, 1, 2), None, tenant=tenant
        )
    model.request_ended(Outcome.REJECTED, AdmissionReason.INVALID, 0, stamps(1), None, None, "gold")
    found = {key: value for key, value in counts(registry).items() if value}
    assert found == {("gold", "ok"): 2, ("other", "ok"): 3, ("gold", "rejected"): 1}


def test_a_change_keeps_what_stays_and_drops_what_goes(model, registry, stamps):
    model.tells_tenants_apart(("gold", "silver"))
    for tenant in ("gold", "silver", "bronze"):
        model.request_ended(
            Outcome.OK, Reason.NONE, 1, stamps(1, 1, 1, 1, 1, 1, 2), None, tenant=tenant
        )
    model.tells_tenants_apart(("gold", "bronze"))
    tenants = Counter()
    for (tenant, _), value in counts(registry).items():
        tenants[tenant] += value
    assert tenants == {"gold": 1, "bronze": 0, "other": 1}
