"""The demo: a real model behind a real web service, real requests, and a day of its life in about three minutes.

`service.py` is the model server, instrumented by our SDK; `traffic.py` drives it and keeps an exact tally; `story.py` plays
the day and narrates it; `questions.py` asks ClickHouse five things at the end; `settings.py` and `rules.yaml` say how
a day is made short. Everything runs what `leadline up` runs.
"""
