"""Decides which batch runs next, and what is in it.

While a model has a free instance, `batch_former.form` asks the model's policy about each batch group
(`policy_calls`). A full batch may also be formed shortly before an instance is free (`prefetching`),
and a failed batch runs again in groups (`retries`). Every answer becomes a `Proposal`. Of each model's
proposals `selection` keeps those that waste no device time, and of all that are left it picks the one
that must start first. Where shapes are padded, `filling` adds requests of other buckets to it.

Code here may read queues, fleets and predictions, and hands a proposal to `handlers.dispatch`. It ends
no request, starts no batch and moves nothing between queues; what a policy gives up is returned.
"""
