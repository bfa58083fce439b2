"""Named sets of workload parameters; docs/workload.md says what each is for and how well it fits."""

from __future__ import annotations

from mezzo.replay.workload_config import (
    Agents,
    Amount,
    Arrivals,
    Conversations,
    Documents,
    Prompts,
    WorkloadConfig,
)

# Fitted to the hour of conversations published with Mooncake (FAST '25, Apache-2.0): see docs/workload.md.
CONVERSATION = WorkloadConfig(
    duration_s=3540,
    warmup_s=1800,
    context_tokens_max=126_200,
    tick_s=3,
    arrivals=Arrivals(sessions_per_s=1.88, trend=0.28),
    prompts=Prompts(count=1, zipf=0, tokens=Amount(median=890)),
    documents=Documents(share=0),
    conversations=Conversations(
        opening=Amount(median=7430, sigma=1.08, least=3, long_share=0.277, long_median=29.2, long_sigma=1.09),
        message=Amount(
            median=18.5, sigma=1.25, least=1, long_share=0.273, long_median=4290, long_sigma=0.743
        ),
        answer=Amount(
            median=411, sigma=0.319, least=3, most=2000, long_share=0.354, long_median=57.7, long_sigma=1.52
        ),
        go_on=0.348,
        go_on_spread=0.29,
        think_s=Amount(median=108, sigma=0.91, least=5, long_share=0.11, long_median=650, long_sigma=0.85),
        answer_tokens_per_s=30,
        retry_share=0.028,
        edit_share=0.27,
        edit_keep=Amount(median=0.19, sigma=0.85, most=0.98),
        edit_growth=Amount(median=1.0, sigma=0.391, most=8),
        come_back_share=0,
    ),
)

CHAT = WorkloadConfig()

DOCUMENTS = WorkloadConfig(
    arrivals=Arrivals(sessions_per_s=0.5),
    documents=Documents(
        share=0.9, count=500, zipf=0.9, tokens=Amount(median=20_000, sigma=0.8, least=512, most=110_000)
    ),
    conversations=Conversations(
        opening=Amount(median=60, sigma=0.8, least=5),
        message=Amount(median=40, sigma=0.8, least=3),
        answer=Amount(median=350, sigma=0.7, least=1, most=4096),
        go_on=0.6,
        think_s=Amount(median=60, sigma=1.0, least=2, most=86_400),
        come_back_share=0.1,
    ),
)

AGENTS = WorkloadConfig(
    arrivals=Arrivals(sessions_per_s=0.1, burst_every_s=600, burst_s=30, burst_factor=5),
    prompts=Prompts(count=8, zipf=1.0, tokens=Amount(median=6000, sigma=0.5, least=512, most=32_768)),
    documents=Documents(share=0),
    agents=Agents(share=0.9),
)

PRESETS = {"conversation": CONVERSATION, "chat": CHAT, "documents": DOCUMENTS, "agents": AGENTS}
PRESET_NOTES = {
    "conversation": "the published hour of conversations, in its figures: one short system prompt, long messages",
    "chat": "short questions under a few system prompts, some documents, sessions that come back",
    "documents": "many questions about the same documents",
    "agents": "loops of tool calls whose context grows, with sub-agents that share it",
}
"""what each is, in one line"""
