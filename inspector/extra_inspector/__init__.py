"""A local, read-only web page over a run: `extra-rl inspect RUN`.

`index` makes the run folder searchable, `prefixes` and `memories` collect the data of one prompt, `markup`
turns it into HTML, `web` builds the pages with NiceGUI, and `access` protects them. Of the trainer only
`extra_trainer.runs` is imported. Only the index is written; it is in the user's cache folder.
"""
