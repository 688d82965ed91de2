"""When each alert must fire, and when it must not: near its threshold, at resets, and where series are missing."""

from collections.abc import Iterator, Sequence
from typing import Final

from deploy.alerting import MINUTE, Case, Series, cluster, told

HOUR: Final = 60 * MINUTE
TWO_UP: Final = [told("up", f"1x{HOUR}"), told("up", f"1x{HOUR}", "b")]
A: Final = {"namespace": "tiny-python", "pod": "a"}
ALL: Final = {"namespace": "tiny-python"}
POD: Final = "tiny-python-5f6c7d8e9f-abcde"
CONTAINER: Final = {"pod": POD, "container": "triton"}


def growing(*pieces: tuple[int, float]) -> list[float]:
    """Values of a counter: for so many samples, so much more with each."""
    values, at = [], 0.0
    for samples, step in pieces:
        for _ in range(samples):
            at += step
            values.append(at)
    return values


def restarted(times: int, *, apart: int = 2 * MINUTE) -> list[float]:
    """Values of a counter that begins again so often."""
    return [float(value) for _ in range(times + 1) for value in range(1, apart + 1)]


def down() -> Iterator[Case]:
    fires: list[dict[str, str]] = [{}]
    yield Case(alert="DeploykitDown", what="no pod at all", series=[], at="2m", fires=fires)
    yield Case(alert="DeploykitDown", what="no pod, not yet for long", series=[], at="1m45s")
    both = [told("up", "0x40"), told("up", "0x40", "b")]
    yield Case(alert="DeploykitDown", what="two pods, both silent", series=both, at="3m", fires=fires)
    one = [told("up", "0x40"), told("up", "1x40", "b")]
    yield Case(alert="DeploykitDown", what="one of two pods is up", series=one, at="10m")
    gone = [told("up", "1x8 stale")]
    yield Case(alert="DeploykitDown", what="the last pod is gone", series=gone, at="4m30s", fires=fires)
    gap = [told("up", "1x8 0x6 1x40")]
    yield Case(alert="DeploykitDown", what="a gap of a minute and a half", series=gap, at="3m45s")
    other = [told("up", "1x40", job="other")]
    yield Case(alert="DeploykitDown", what="only another model's pod is up", series=other, at="3m", fires=fires)


def pod_down() -> Iterator[Case]:
    alert, labels = "DeploykitPodDown", [{**A, "job": "tiny-python"}]
    series = [told("up", "0x60"), told("up", "1x60", "b")]
    yield Case(alert=alert, what="one of two", series=series, at="5m", fires=labels)
    yield Case(alert=alert, what="may still be loading", series=series, at="4m45s")
    yield Case(alert=alert, what="up again in between", series=[told("up", "0x15 1 0x15")], at="7m")


def stalled() -> Iterator[Case]:
    alert = "DeploykitStalled"
    busy, tokens = told("num_requests_running", f"3x{HOUR}"), "generation_tokens_total"
    stopped = told(tokens, growing((2 * MINUTE, 5), (30 * MINUTE, 0)))
    yield Case(alert=alert, what="tokens stop", series=[busy, stopped], at="12m15s", fires=[A], shown="3")
    yield Case(alert=alert, what="not yet for long", series=[busy, stopped], at="11m30s")
    yield Case(alert=alert, what="no tokens known", series=[busy], at="5m", fires=[A], shown="3")
    idle = told("num_requests_running", f"0x{HOUR}")
    yield Case(alert=alert, what="nothing to do", series=[idle, told(tokens, f"7x{HOUR}")], at="30m")
    slow = told(tokens, [index // (4 * MINUTE) for index in range(HOUR)])
    yield Case(alert=alert, what="a token in four minutes", series=[busy, slow], at="30m")
    again = told(tokens, restarted(1, apart=10 * MINUTE))
    yield Case(alert=alert, what="the counter began again", series=[busy, again], at="15m")
    others = [told("num_requests_running", f"2x{HOUR}", "b"), told(tokens, f"0+3x{HOUR}", "b")]
    one = [busy, told(tokens, f"7x{HOUR}"), *others]
    yield Case(alert=alert, what="only one of two", series=one, at="20m", fires=[A], shown="3")
    replaced = [busy, told(tokens, f"9x{HOUR}"), told(tokens, f"0+1x{HOUR}", version="2")]
    yield Case(alert=alert, what="a new version generates", series=replaced, at="20m")


def ended(**by_reason: str | Sequence[float]) -> list[Series]:
    """How answers ended."""
    return [told("request_success_total", values, finished_reason=reason) for reason, values in by_reason.items()]


def errors() -> Iterator[Case]:
    alert = "DeploykitErrors"
    many = ended(error=f"0+1x{HOUR}", length=f"0+10x{HOUR}", stop=f"0+8x{HOUR}")
    yield Case(alert=alert, what="1 of 19", series=many, at="5m45s", fires=[ALL], shown="5.263%")
    yield Case(alert=alert, what="not yet for long", series=many, at="5m30s")
    yield Case(alert=alert, what="1 of 21", series=ended(error=f"0+1x{HOUR}", length=f"0+20x{HOUR}"), at="10m")
    rare = ended(error=growing(*[(1, 1), (10 * MINUTE - 1, 0)] * 6), length=f"0+0x{HOUR}")
    yield Case(alert=alert, what="one error in ten minutes and nothing else", series=rare, at="21m")
    two = ended(error=growing(*[(1, 1), (3 * MINUTE - 1, 0)] * 20), stop=f"5x{HOUR}")
    yield Case(alert=alert, what="an error in three minutes and nothing else", series=two, at="21m")
    burst = ended(error=growing((4 * MINUTE, 0), (1, 50), (40 * MINUTE, 0)), length=f"0+1x{HOUR}")
    yield Case(alert=alert, what="fifty at once, and never again", series=burst, at="9m")
    reset = ended(error="50x20 0x100", length="900x20 0+1x100")
    yield Case(alert=alert, what="errors of before a restart", series=reset, at="11m")
    yield Case(alert=alert, what="errors aren't counted", series=ended(length=f"0+5x{HOUR}"), at="11m")
    yield Case(alert=alert, what="nothing ends", series=ended(error=f"9x{HOUR}", length=f"9x{HOUR}"), at="11m")


def timeouts() -> Iterator[Case]:
    alert = "DeploykitTimeouts"
    many = ended(timeout=f"0+1x{HOUR}", length=f"0+18x{HOUR}")
    yield Case(alert=alert, what="1 of 19", series=many, at="10m15s", fires=[ALL], shown="5.263%")
    yield Case(alert=alert, what="not yet for long", series=many, at="10m")
    yield Case(alert=alert, what="1 of 21", series=ended(timeout=f"0+1x{HOUR}", length=f"0+20x{HOUR}"), at="11m")
    yield Case(alert=alert, what="they aren't counted", series=ended(length=f"0+20x{HOUR}"), at="11m")


def queue_full() -> Iterator[Case]:
    alert, waiting = "DeploykitQueueFull", "num_requests_waiting"
    yield Case(alert=alert, what="922", series=[told(waiting, "922x20")], at="1m", fires=[A], shown="922")
    yield Case(alert=alert, what="921", series=[told(waiting, "921x20")], at="5m")
    yield Case(alert=alert, what="not yet for long", series=[told(waiting, "922x20")], at="45s")
    both = [told(waiting, "600x20"), told(waiting, "600x20", "b")]
    yield Case(alert=alert, what="two that have room", series=both, at="5m")
    two = [told(waiting, "500x20"), told(waiting, "500x20", version="2")]
    yield Case(alert=alert, what="two versions in one pod", series=two, at="5m", fires=[A], shown="1k")


def restarts() -> Iterator[Case]:
    counter = "prompt_tokens_total"
    loop = [told(counter, restarted(3))]
    yield Case(alert="DeploykitRestartLoop", what="three", series=loop, at="7m", fires=[A], shown="3")
    yield Case(alert="DeploykitRestartLoop", what="two", series=[told(counter, restarted(2))], at="7m")
    past = [told(counter, [*restarted(3), *[9.0] * HOUR])]
    yield Case(alert="DeploykitRestartLoop", what="half an hour ago", series=past, at="40m")
    three = [told(counter, restarted(1), pod) for pod in "abc"]
    yield Case(alert="DeploykitRestartLoop", what="three pods, each once", series=three, at="3m")
    once = [told(counter, restarted(1)), told(counter, "1+1x20", "b")]
    yield Case(alert="DeploykitRestarted", what="one", series=once, at="3m", fires=[A])
    yield Case(alert="DeploykitRestarted", what="none", series=[told(counter, "1+1x20")], at="3m")
    late = [told(counter, [*restarted(1), *[9.0] * HOUR])]
    yield Case(alert="DeploykitRestarted", what="a quarter of an hour ago", series=late, at="18m")
    replaced = [told(counter, "50+1x8 stale"), told(counter, "_x8 0+1x20", version="2")]
    yield Case(alert="DeploykitRestarted", what="another version took over", series=replaced, at="5m")
    pods = [told(counter, "50+1x8 stale"), told(counter, "_x8 0+1x20", "b")]
    yield Case(alert="DeploykitRestarted", what="another pod took over", series=pods, at="5m")


def queue_long() -> Iterator[Case]:
    alert, waiting = "DeploykitQueueLong", "num_requests_waiting"

    def two(a: int, b: int) -> list[Series]:
        return [told(waiting, f"{a}x{HOUR}"), told(waiting, f"{b}x{HOUR}", "b")]

    yield Case(alert=alert, what="33 at 2 × 16 rows", series=[*TWO_UP, *two(33, 0)], at="5m", fires=[ALL], shown="33")
    yield Case(alert=alert, what="32", series=[*TWO_UP, *two(20, 12)], at="10m")
    yield Case(alert=alert, what="not yet for long", series=[*TWO_UP, *two(33, 0)], at="4m45s")
    one = [told("up", "1x60"), told("up", "0x60", "b"), told(waiting, "17x60")]
    yield Case(alert=alert, what="17 where one of two is up", series=one, at="5m", fires=[ALL], shown="17")
    yield Case(alert=alert, what="nothing is up", series=two(99, 99), at="10m")


def uneven() -> Iterator[Case]:
    alert = "DeploykitLoadUneven"

    def pods(*waiting_and_running: tuple[int, int]) -> list[Series]:
        return [
            told(gauge, f"{value}x{HOUR}", pod)
            for pod, both in zip("abc", waiting_and_running, strict=False)
            for gauge, value in zip(("num_requests_waiting", "num_requests_running"), both, strict=True)
        ]

    stuck = pods((17, 16), (0, 7))
    yield Case(alert=alert, what="one queues, one idles", series=stuck, at="10m", fires=[ALL], shown="17")
    yield Case(alert=alert, what="not yet for long", series=stuck, at="9m45s")
    yield Case(alert=alert, what="half of the rows are taken", series=pods((17, 16), (0, 8)), at="20m")
    yield Case(alert=alert, what="a short queue", series=pods((16, 16), (0, 0)), at="20m")
    yield Case(alert=alert, what="all queue", series=pods((50, 16), (40, 16)), at="20m")
    yield Case(alert=alert, what="one pod with a full cache", series=pods((50, 3)), at="20m")


def cache_full() -> Iterator[Case]:
    alert, usage, counter = "DeploykitCacheFull", "kv_cache_usage_perc", "num_preemptions_total"
    full, often = told(usage, f"0.91x{HOUR}"), told(counter, f"0+0.26x{HOUR}")
    yield Case(alert=alert, what="full, 1.04 a minute", series=[full, often], at="10m", fires=[A], shown="91%")
    yield Case(alert=alert, what="not yet for long", series=[full, often], at="9m45s")
    yield Case(alert=alert, what="room", series=[told(usage, f"0.89x{HOUR}"), often], at="10m")
    few = told(counter, f"0+0.24x{HOUR}")
    yield Case(alert=alert, what="full, 0.96 a minute", series=[full, few], at="20m")
    yield Case(alert=alert, what="full, and none set aside", series=[full, told(counter, f"500x{HOUR}")], at="20m")
    peak = told(usage, [float(index % 2) for index in range(HOUR)])
    yield Case(alert=alert, what="full now and then", series=[peak, often], at="20m")
    other = [full, told(counter, f"0x{HOUR}"), told(usage, f"0.1x{HOUR}", "b"), told(counter, f"0+1x{HOUR}", "b")]
    yield Case(alert=alert, what="full here, set aside there", series=other, at="20m")


def first_token() -> Iterator[Case]:
    alert = "DeploykitFirstTokenSlow"

    def buckets(within: int, pod: str = "a", *, of: int = 100) -> list[Series]:
        steps = {"2.5": within // 2, "5": within, "7.5": of, "+Inf": of}
        name = "time_to_first_token_seconds_bucket"
        return [told(name, f"0+{step}x{HOUR}", pod, le=le) for le, step in steps.items()]

    # 95 of 100 is one sixth of the way from 5 s, which 94 reach, to 7.5 s.
    slow = buckets(94)
    yield Case(alert=alert, what="94 of 100 in 5 s", series=slow, at="10m15s", fires=[ALL], shown="5.417s")
    yield Case(alert=alert, what="not yet for long", series=slow, at="10m")
    yield Case(alert=alert, what="95 of 100", series=buckets(96), at="30m")
    spread = [*buckets(99, "a"), *buckets(92, "b")]
    yield Case(alert=alert, what="one slow pod of two", series=spread, at="30m")
    still = [told(each.name, f"100x{HOUR}", le=each.labels["le"]) for each in slow]
    yield Case(alert=alert, what="nobody asks", series=still, at="30m")


def silent() -> Iterator[Case]:
    alert, labels = "DeploykitFiguresMissing", [{**A, "job": "tiny-python"}]
    yield Case(alert=alert, what="none", series=TWO_UP[:1], at="5m", fires=labels)
    yield Case(alert=alert, what="not yet for long", series=TWO_UP[:1], at="4m45s")
    yield Case(alert=alert, what="there", series=[*TWO_UP[:1], told("num_requests_running", "0x60")], at="10m")
    half = [*TWO_UP, told("num_requests_running", "0x60", "b")]
    yield Case(alert=alert, what="one of two", series=half, at="10m", fires=labels)
    yield Case(alert=alert, what="the pod is down", series=[told("up", "0x60")], at="10m")


def memory() -> Iterator[Case]:
    alert, count = "DeploykitOutOfMemory", "kube_pod_container_status_restarts_total"
    reason = "kube_pod_container_status_last_terminated_reason"
    fires = [{**CONTAINER, **ALL}]
    once = cluster(count, f"0x4 1x{HOUR}", **CONTAINER)
    killed = cluster(reason, f"_x4 1x{HOUR}", reason="OOMKilled", **CONTAINER)
    yield Case(alert=alert, what="killed", series=[once, killed], at="3m", fires=fires)
    yield Case(alert=alert, what="long ago", series=[once, killed], at="30m")
    yield Case(alert=alert, what="never restarted", series=[cluster(count, "0x99", **CONTAINER), killed], at="3m")
    wrong = cluster(reason, f"1x{HOUR}", reason="Error", **CONTAINER)
    yield Case(alert=alert, what="another reason", series=[once, wrong], at="3m")
    beside = cluster(reason, f"1x{HOUR}", reason="OOMKilled", pod=POD, container="gateway")
    yield Case(alert=alert, what="another container", series=[once, beside], at="3m")


def crashes() -> Iterator[Case]:
    alert, count = "DeploykitContainerCrashes", "kube_pod_container_status_restarts_total"
    fires = [{**CONTAINER, **ALL}]
    yield Case(alert=alert, what="3", series=[cluster(count, "0x8 1x8 2x8 3x9", **CONTAINER)], at="8m", fires=fires)
    yield Case(alert=alert, what="2", series=[cluster(count, f"0x8 1x8 2x{HOUR}", **CONTAINER)], at="20m")
    named = {"container": "triton", "pod": "tiny-python-two-5f6c7d8e9f-abcde"}
    yield Case(alert=alert, what="another's pod", series=[cluster(count, "0x8 1x8 2x8 3x9", **named)], at="8m")


def pods_missing() -> Iterator[Case]:
    alert, there, wanted = (
        "DeploykitPodsMissing", "kube_deployment_status_replicas_available", "kube_deployment_spec_replicas",
    )  # fmt: skip
    name = {"deployment": "tiny-python"}
    fires = [{**ALL, **name}]
    few = [cluster(there, f"1x{HOUR}", **name), cluster(wanted, f"2x{HOUR}", **name)]
    yield Case(alert=alert, what="one of two", series=few, at="15m", fires=fires, shown="1")
    yield Case(alert=alert, what="not yet for long", series=few, at="14m45s")
    yield Case(alert=alert, what="both", series=[few[1], cluster(there, f"2x{HOUR}", **name)], at="20m")
    yield Case(alert=alert, what="the number isn't known", series=few[:1], at="20m")


def rollout() -> Iterator[Case]:
    alert, condition = "DeploykitRolloutStuck", "kube_deployment_status_condition"
    stuck = {"deployment": "tiny-python", "condition": "Progressing", "status": "false"}
    fires = [{**ALL, "deployment": "tiny-python"}]
    yield Case(alert=alert, what="stuck", series=[cluster(condition, "1x40", **stuck)], at="1m", fires=fires)
    yield Case(alert=alert, what="not yet for long", series=[cluster(condition, "1x40", **stuck)], at="45s")
    yield Case(alert=alert, what="goes on", series=[cluster(condition, "0x40", **stuck)], at="5m")
    yield Case(alert=alert, what="is true", series=[cluster(condition, "1x40", **{**stuck, "status": "true"})], at="5m")


def scaler() -> Iterator[Case]:
    name = {"horizontalpodautoscaler": "tiny-python"}
    blind = {**name, "condition": "ScalingActive", "status": "false"}
    condition = "kube_horizontalpodautoscaler_status_condition"
    fires = [{**ALL, **name}]
    alert = "DeploykitScalerBlind"
    yield Case(alert=alert, what="blind", series=[cluster(condition, "1x40", **blind)], at="5m", fires=fires)
    yield Case(alert=alert, what="not yet for long", series=[cluster(condition, "1x40", **blind)], at="4m45s")
    yield Case(alert=alert, what="sees", series=[cluster(condition, "0x40", **blind)], at="9m")
    alert, fires = "DeploykitScaledToTheMost", [{**ALL, **name}]
    now, most = (
        "kube_horizontalpodautoscaler_status_current_replicas", "kube_horizontalpodautoscaler_spec_max_replicas",
    )  # fmt: skip
    all_of_them = [cluster(now, f"8x{HOUR}", **name), cluster(most, f"8x{HOUR}", **name)]
    yield Case(alert=alert, what="8 of 8", series=all_of_them, at="15m", fires=fires, shown="8")
    yield Case(alert=alert, what="not yet for long", series=all_of_them, at="14m45s")
    yield Case(alert=alert, what="7 of 8", series=[all_of_them[1], cluster(now, f"7x{HOUR}", **name)], at="20m")


CASES: Final[Sequence[Case]] = [
    case
    for table in (
        down, pod_down, stalled, errors, timeouts, queue_full, restarts, queue_long, uneven, cache_full, first_token,
        silent, memory, crashes, pods_missing, rollout, scaler,
    )
    for case in table()
]  # fmt: skip
