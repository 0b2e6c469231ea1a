"""Policies of DSDE inside an unmodified vLLM.

vLLM finds `register` by its entry point and calls it in every process. Nothing of vLLM is changed on disk: where a worker starts, and
only if its version and configuration are known to this plugin, five methods of the model runner are wrapped in memory (`hooks`).

| read in this order | for |
|---|---|
| `support` | which versions and configurations are served; everything else is left as it is, with one warning |
| `settings` | how a policy is chosen |
| `hooks` | where the model runner is entered |
| `adapter` | vLLM's batch as rows of numbers, and the policy's lengths as vLLM's drafts |
| `speculation` | a step as the policy sees it; knows neither vLLM nor torch |
| `signals` | divergence of target and draft from the logits of both |
| `cpu_sampling` | mends one fault of vLLM's CPU build, where it is |
"""

from dsde.vllm.plugin import register

__all__ = ["register"]
