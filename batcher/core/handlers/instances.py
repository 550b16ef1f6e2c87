"""Instances come up, drain and go down; devices get a limit."""

from __future__ import annotations

from batcher.core.contents import Contents
from batcher.core.events import DeviceConfigured, InstanceDown, InstanceDraining, InstanceUp
from batcher.core.handlers.batches import note_again
from batcher.core.requests.lost_batches import settle_lost


def instance_up(contents: Contents, event: InstanceUp) -> None:
    """Add an incarnation in the place of an older one; learn what its warm-up measured.

    An incarnation that is not newer than the one that is up is ignored.
    """
    known = contents.fleet.instances.get(event.instance)
    if known is not None:
        if known.up.incarnation >= event.incarnation:
            return
        instance_down(contents, InstanceDown(event.instance, known.up.incarnation))
    contents.fleet.add(event)
    model = contents.models.get(event.model)
    if model is not None:
        model.whole[event.instance] = (event.device, event.max_in_flight)
    if model is not None and (event.profile or event.buckets):
        copies = dict(event.copies)
        if event.profile:
            model.times.seed((), event.profile, copies.get((), ()))
        for bucket, profile in event.buckets:
            model.times.seed(bucket, profile, copies.get(bucket, ()))
        model.judge_target()


def instance_draining(contents: Contents, event: InstanceDraining) -> None:
    """Give an instance no further batch."""
    instance = contents.fleet.incarnation(event.instance, event.incarnation)
    if instance is not None:
        instance.draining = True
        contents.fleet.changed()
        model = contents.models.get(instance.up.model)
        if model is not None and model.name in contents.fleet.serving:
            # It is taken away. With the last one the model goes, or that comes back.
            model.whole.pop(event.instance, None)


def instance_down(contents: Contents, event: InstanceDown) -> None:
    """Remove an incarnation; the requests in its batches fail, or run once more."""
    instance = contents.fleet.incarnation(event.instance, event.incarnation)
    if instance is None:
        return
    begun = set(instance.batches)
    if instance.next is not None and instance.up.overlaps:
        begun.add(instance.next)  # it may have been copied in, or even executed
    batches = contents.fleet.remove(instance)
    model = contents.models.get(instance.up.model)
    if model is not None:
        for batch in batches:
            model.running -= 1
            if batch.suspects is not None:
                model.bisections.lost(batch.suspects)
    again = settle_lost(batches, frozenset(begun), model, contents.ledger, contents.now_ns)
    if model is not None and again:
        note_again(contents, model, again)


def device_configured(contents: Contents, event: DeviceConfigured) -> None:
    """Limit how many batches run on a device at once."""
    contents.fleet.limit_device(event.device, event.max_in_flight)
    contents.reset_device_shares()
