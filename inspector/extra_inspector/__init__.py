"""A local, read-only web page over a run: `extra-rl inspect RUN`.

`index` makes the run folder searchable, `prefixes` and `memories` collect the data of one prompt, `markup`
turns it into HTML with the macros in `templates`, `web` builds the pages with NiceGUI, and `access` protects
them. `imports` makes run folders of other trainers' logs. Of the trainer only `extra_trainer.runs` is
imported. Only the index and imported runs are written; they are in the user's cache folder.
"""
