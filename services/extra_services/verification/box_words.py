r"""The words before and behind a box that say whether it is the answer (`commitment` uses them).

They are kinds of sentences, not cases: denied, said by others, supposed or tried, compared with another
value, withdrawn, gone on from, one of several values. A verb behind a box is taken for an objection unless it
is in `CONFIRMED_BEHIND`: there are more ways to object than to agree. Each expression sees a bounded text.
"""

import re

from extra_services.number_words import SMALL
from extra_services.verification.symbols import any_of, word_set

#: All text up to the beginning of its last sentence.
EARLIER_SENTENCES = re.compile(r"(?s:.*)(?:[.!?;](?=\s)|\n\s*\n|[。！？；])")

#: What may stand between words and the box they are about.
_TO_BOX = r"[\s$({*_:,\"“：，（]* (?:\\[(\[])? [\s*_]* (?: [a-zA-Z](?:_\{?\w{1,3}\}?)? \s* = \s* )? \Z"
#: What stands behind a box that ends the text.
NOTHING_BEHIND = re.compile(r"[\s$*_.]*+(?:\\[)\]][\s$*_.]*+)?\Z")
#: The end of a formula, and of bold, behind a box.
_BOX_END = r"[\s$*_]*+ (?:\\[)\]])?+ [\s*_)\]\"”’`]*+"
_SUBJECT = any_of(
    "the an? answer value result solution option choice case candidate possibility number following"
)
_NEAR_BOX = any_of(
    """
    be equal to possibly actually really simply just exactly even ever the an? answer value is result
    solution equals necessarily always likely been that it
    """
)
_NEAR = rf"(?: \s+ (?:{_NEAR_BOX})\b ){{0,5}}+"
_VERB_OF_REFUSAL = any_of(
    r"""
    rule[ds]?\s+out ruling\s+out reject(?:s|ed)? exclud(?:e|es|ed) eliminat(?:e|es|ed) discard(?:s|ed)?
    dismiss(?:es|ed)? ignore disregard disagree\s+with den(?:y|ies|ied) refuted? instead\s+of rather\s+than
    other\s+than withdraw retract take\s+back abandon strike erase replace avoid forget
    """
)
_OTHERS = any_of(
    """
    student students someone somebody friend he she hint book textbook teacher teammate classmate
            others people
    many some they colleague chatgpt alice bob tom john mary jane david sarah mike emma peter anna
    """
)
_SAYING = any_of(
    "claims? claimed says? said thinks? believes? believed guess(?:es)? guessed insists? argues?"
)
_BEFORE_I_KNEW = any_of("first initially originally previously once mistakenly wrongly")
_STATING = any_of(
    r"""
    say think conclude answer guess claim believe write give assume take pick choose report put submit state
    stop\s+at settle\s+on settle\s+for
    """
)
_COMMON = any_of("common typical popular frequent usual classic plausible widespread")
_WOULD = r"(?: \b(?:would|might|could) | ['’]d ) \b"
_DENIED_IN_CHINESE = any_of(
    """
    不是 不等于 并非 不可能是 不可能为 不会是 不能是 不应是 不应该是 不应为 不为 排除 误以为是? 误认为是?
    大于 小于 多于 少于 超过 低于 高于 不到 除了 错误答案是? 错误答案为
    """
)
_FIRST = any_of("first initial naive naïve previous earlier old original wrong incorrect false tempting")
_CROSSES = "❌✗✘✖☒"
_CHANGES = any_of("add subtract multiply divide double halve triple square")
_WRONG = any_of("bad wrong incorrect false invalid erroneous mistaken old outdated superseded")
_ATTEMPT = any_of("guess attempt answer thought result estimate value instinct reading conclusion solution")
#: In lower-case text. One look for a word's beginning, without regard to case, takes a tenth of the time.
NOT_MEANT_BEFORE = re.compile(
    rf"""
    (?: \b (?=\w) (?:
      # denied
      (?: (?:not|never|cannot|hardly|scarcely|without|except(?:\s+for)?|excluding|besides|unlike)
        | no \s+ longer | by \s+ no \s+ means | (?:every|all|any) \b [^.,;:\n]{{0,30}} \b but\b ) {_NEAR}
    | (?: not \s+ (?:true|the\s+case|correct|right|possible|likely) | false | untrue | wrong | incorrect
           | impossible | unlikely | doubtful | tempting | mistake | mistaken | error | premature | absurd
           | foolish | silly )
        \s+ (?: that | to \s+ (?:{_STATING}) ) \b [^.;:\n]{{0,80}}
    | (?:easy|natural) \s+ to \s+ (?:think|guess|believe|assume|say|expect) \b [^.;:\n]{{0,80}}
    | (?: (?<!no\s)(?<!a\s)(?<!beyond\s)doubt|deny|dispute|wonder|whether|refuse|nobody|no\s+one
        |there(?:\s+is|['’]s)\s+no(?!\s+(?:other|doubt|question|need|reason)\b)) \b
            [^.;,\n]{{0,80}}
    | (?:{_COMMON}) \s+ (?:mistake|error|slip|trap|pitfall|misreading)s? \b [^.;\n]{{0,40}}
    | (?:trap|pitfall|misprint|distractor|template|myth|misconception|fallacy|unknown|undetermined
        |unclear) \b [^.;,\n]{{0,30}}
    | (?:maybe|perhaps|possibly)
    | (?:{_VERB_OF_REFUSAL}) (?: \s+ (?:{_SUBJECT})\b ){{0,4}}+
    # another value, which this one is compared with
    | (?: plus | over | versus | vs\.? | near | almost | nearly | above | below | beyond | under
        | (?:close|added|unequal) \s+ to | (?:divided|multiplied) \s+ by
            | (?:subtracted|taken|differs?|different|distinct) \s+ from
        | (?:divisor|factor|multiple|power|third|quarter|fraction) \s+ of
            | divid(?:es|ing) | exceed(?:s|ing)?
        | as \s+ \w+ \s+ as
            | (?:add|subtract|multiply|divide) \s+ [\d$\\] [^.;,\n]{{0,40}} \b (?:to|from|by)
        | (?:rather|sooner|(?<!do\s)(?<!does\s)(?<!any\s)(?<!get\sa\s)(?:better|worse)) \b
            [^.;\n]{{0,40}} \b than
        | somewhere \s+ \w+ (?:\s+to)? )
    | between \b [^.;\n]{{0,60}} \b and
    | (?:answer|result) \s+
            (?:squared|cubed|doubled|tripled|halved|plus|minus|times|mod(?:ulo)?|(?:has|have)(?!\s+to\b)|ends?|starts?
        |begins?|contains?|consists?|divides|lies|leaves|rounds|is\s+(?:after|before|next\s+to|past
        |either\s+side\s+of)) \b [^.;:\n]{{0,40}}
    # said by others, supposed, tried, an example
    | (?:suppose|imagine|assume|what\s+if) \b [^.;:,\n]{{0,60}}
        \b (?:were|was|is|be|had\s+been|equals?) (?:\s+to)?
    | if \b [^.;\n]{{0,80}} \b (?:did|didn['’]t|were|weren['’]t|was|wasn['’]t|had) \b
            [^.;\n]{{0,80}} \b (?:answer|result|solution) \s+ (?:would|could|might) \b [^.;\n]{{0,40}}
    | (?:forg[eo]t|ignor|neglect|overlook|disregard|omit|skipp?|miss|misread)(?:s|e|es|ed|ing|ting|ten|ted)?
        \b [^.;\n]{{0,80}} {_WOULD} [^.;\n]{{0,40}}
    | if \s+ (?:we|you|one|i) \s+ (?:do|did|does)(?:\s+not|n['’]t) \s+
            (?:account|allow|consider|notice|check|count|subtract|include|remember|correct|adjust|carry) \b
            [^.;\n]{{0,80}} {_WOULD} [^.;\n]{{0,40}}
    | if \s+ (?:the|your) \s+ (?:final\s+)? answer \s+ (?:is|was|were) \b [^.;\n]{{0,60}}
    | (?:{_OTHERS}) \s+ (?: (?!who\b|that\b)\w+\s+ )? (?:{_SAYING}) \b
        (?: (?! [,\s](?:so|thus|hence|therefore|then|which)\b ) [^.;\n] ){{0,60}}
    | according \s+ to \s+ (?:(?:my|the|an?|some|many|one|our)\s+)? (?:{_OTHERS}) \b [^.;\n]{{0,60}}
    | i \s+ (?:{_BEFORE_I_KNEW}) \s+ \w+ \b [^.;:\n]{{0,60}}
    | (?:at\s+first(?:\s+(?:glance|sight))?|at\s+a\s+glance|earlier\s+i) \b [^.;\n]{{0,80}}
    | (?:my|the|an?|our|one|another) \s+ (?:(?:{_COMMON}|but|and|very) \s+){{0,3}} (?:{_FIRST}) \s+
            (?:{_ATTEMPT}) \b [^.;,\n]{{0,40}}
    | (?:{_WRONG}) \s+ (?:{_ATTEMPT}) s? \b [^.;,\n]{{0,40}}
    | (?:never|not|n['’]t) \s+ (?:write|put|enter|submit|box|state|report) \b [^.;,\n]{{0,20}}
    | (?:placeholder|dummy(?:\s+value)?|outdated|tempting) \s* : [^.;\n]{{0,20}}
    | (?:in|is) \s+ (?:the|this) \s+ (?:form|format) | (?:the|this) \s+ format \s+ is
    | (?:one|you|we|people|some|many) \s+ (?:might|may|could|would) \s+
            (?:be\s+tempted|wrongly|mistakenly|naively|think|guess|expect)
        \b [^.;\n]{{0,60}}
    | (?:some|many|most|several|other) \s+ (?:textbooks?|books?|sources?|people|students|websites?)
            \b [^.;\n]{{0,40}}
    | (?:guess|try|trying|test|testing|plug|plugging\s+in) (?: \s+ (?:{_SUBJECT}|that|with)\b ){{0,3}}+
    | (?:format\s+example|example\s+format|sample\s+format|example\s+of\s+(?:the|an?)\s+\w*\s*format)
        \b [^.;\n]{{0,40}}
    | (?: wrong | incorrect | lower\s+bound | upper\s+bound | guess | not\s+the\s+answer
        | for\s+(?:example|instance) ) \s* (?=:)
    | (?:hypothesis|conjecture|speculation|unverified|hunch|draft) \s* : [^.;\n]{{0,40}}
    | it \s+ (?:was|is) \s+ (?:often\s+|sometimes\s+)?
            (?:claimed|said|believed|assumed|thought|argued|alleged) \b [^.;\n]{{0,60}}
    | (?:careless(?:ly)?|naive(?:ly)?|hasty|hastily|sloppy|sloppily|wrongly|mistakenly|erroneously
        |incorrectly|flawed|faulty) \b [^.;\n]{{0,80}}
    | (?:twice|half|double|triple|of) \s+ (?:the|my|our) \s+ (?:final\s+)?(?:answer|result) \b
            [^.;,\n]{{0,30}}
    | like (?:\s+(?:this|so))?
    | (?:any|either) \s+ of
    )
    # without a word's beginning
    | n['’]t {_NEAR}
    # denied in German, French, Spanish, Italian, Portuguese, Russian
    | (?<!\w) (?: nicht | kein | n['’]est \s+ pas | pas | no \s+ es | non \s+ è | não \s+ é | не ) (?!\w)
    | [{_CROSSES}≠]
    | (?:<(?:del|s|strike)> | \\[xb]?cancel\s*\{{ | \\(?:sout|st)\s*\{{ | <!-- | (?:\A|\n)\s*%)
    | \A \W* (?:(?:the|output|response|answer|required|expected)\s+)* format \s* (?:is)?
    | (?:{_DENIED_IN_CHINESE})
    | (?:假设|假如|如果|若|设|猜想|猜测) [^。；，,]{{0,12}} (?:答案|结果) [^。；，,]{{0,8}}
    | (?:(?<![我们以可])(?:认为|以为|声称|觉得|猜)
        |(?:有人|同学|学生|老师|小[一-鿿]|[他她])[^。；，,]{{0,4}}(?:说|算得|回答)) [^。；，,]{{0,12}}
    )
    {_TO_BOX}
    """,
    re.VERBOSE,
)
_IS = r"(?:is|are|was|were|=|equals|would\s+be|might\s+be|could\s+be)"
#: A sentence up to "the answer is" that disowns the answer, or says it of another one than the problem's.
DISOWNED = re.compile(
    rf"""
    (?: \b (?: {_WRONG} | {_COMMON} | naive | naïve | tempting | trap | placeholder
          | (?: opposite | backup | other | another | alternative | alternate | next[-\s]best
              | second(?:[-\s]best)? ) (?= (?:\s+[\w-]+){{0,2}} \s+ answer ) )
        (?: ,? \s+ (?! (?:the|our|my|so|then|thus|hence|words|is|are|was|were|and) \b) [\w-]+ ){{0,2}} \s+
      | \b (?: suppose | assum(?:e|es|ed|ing) | unless | imagine | pretend | doubt | den(?:y|ies) | whether
          | if
          | (?: false | untrue | impossible | unlikely | incorrect | wrong | not\s+true | not\s+the\s+case )
            \s+ that )
        (?: \s+ (?: that | now | instead | for\s+(?:a\s+)?contradiction ) ){{0,3}}
        \s+ (?:the|my|your|this) \s+ (?:final\s+)?
      | \b (?: nobody | no\s+one
          | (?:might|may|could|would|would\s+be\s+tempted\s+to) \s+ (?:think|guess|say|believe|expect)
          | (?:students?|people|many|some|they) \s+ (?:think|believe|say|claim)s? )
        \b [^.,;\n]{{0,40}} \b
    )
    (?:answers?|result|solution) \s+ {_IS} (?:\s+therefore)? \s* :? [\s*_`]* \Z
    """,
    re.IGNORECASE | re.VERBOSE,
)
_LEADS_ON = any_of(
    """
    then so thus hence therefore gets? gives? giving obtain yields? find ha(?:ve|s) leaves? makes? is are to
    """
)
#: The beginning of a sentence whose value is no answer: it sets a value, or names a part of a text.
NO_ANSWER_BEFORE = re.compile(
    rf"""
    \A [\s*_>#-]* (?: (?:now|first|next|so|then|finally) ,? \s+ )? (?:
        (?:let|suppose|assume|consider|take|recall|denote|define) \b
      | (?:let\s+(?:me|us)|let['’]s) \s+ (?:try|test|check|consider|take|set|assume) \b )
      (?: (?! \b (?:{_LEADS_ON}) \b ) [^.;:\n] )* \Z
    | \d [\s$)\\]* (?<!\w) (?:ou|oder|o|или) [\s$(\\]* \Z
    | \b (?:see|by|from|in|of|to|use|using|refer) \s+ (?:the\s+)?
        (?:page|section|theorem|lemma|equation|eq\.|formula|figure|table|step|case|problem|part|corollary)
        \s* [$(]* \Z
    | \A [\s*_#]* (?: given | multiply\s+both\s+sides\s+by | step | case | problem | part | question | page
        | lemma | theorem | section | figure ) \s+ \Z
    """,
    re.IGNORECASE | re.VERBOSE,
)
#: The same of a sentence behind a box, which is then no correction.
FOR_ANOTHER_CASE = re.compile(
    rf"""
    \b (?: for \s+ \$?[a-z]\s*=
      | (?: if | in\s+general | more\s+generally | follow-?up | bonus | extension ) \b )
    [^.;\n]{{0,80}} \b (?:answer|result) \s+ {_IS} [\s*_`:]* \Z
    """,
    re.IGNORECASE | re.VERBOSE,
)
#: The sentence of a box is about another case than the problem's.
SUPPOSITION = re.compile(
    r"""
    \b (?:if|in\s+which\s+case|under|with|otherwise|although|though|unless|assuming|were|had|convention
      |interpretation|reading|note|remark) \b .* \b (?:would|could|might) \b
    | \A \W* (?: (?:note|remark) \b \W* (?:that\s+)? )? (?:if|assuming|unless) \b .* \b
        (?: (?:answer|result|value|it|this) \s+ (?:is|becomes|changes\s+to|equals) | becomes | gets? )
        (?: \s+ (?:instead|then) )? [\s$({:*]* \Z
    """,
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)
CONDITION = re.compile(r"\b(?:if|unless|assuming|case|would|could|might)\b", re.IGNORECASE)
#: A sentence that gives the answer, or nothing but a box.
CONCLUDES = re.compile(
    r"\b(?:answer|result|final(?:ly)?|therefore|thus|hence|so|total|equals)\b|\A[\s$*(\[\\]*\Z", re.IGNORECASE
)
#: In lower-case text.
BUT = re.compile(r"\b(?:but|rather|instead)\b(?!\s+(?:not|never|wrong|incorrect|false|mistaken)\b)")

_LINK = r"""(?:
    (?:is|was|are|were|seems|looks|(?:would|must|should|has\s+to|can|turn(?:s|ed)\s+out\s+to)\s+be) \s++
)"""
_ADVERB = r"""(?:
    (?:also|clearly|obviously|simply|just|still|actually|only|merely|really|probably|most|very|highly
        |of\s+course) \s++
)"""
_PRONOUN = any_of("which that this it but and however yet though although one value answer result guess")
_NEXT_SENTENCE = any_of("which that this it however but")
#: Words behind a value or box that take it back ("which is wrong", "turned out to be a mistake").
DENIED_BEHIND = re.compile(
    rf"""
    {_BOX_END} (?: (?:[,;:([—–-]{{1,3}}+ \s*+)?+ | [.!] \s++ (?=(?:{_NEXT_SENTENCE})\b) )
    (?: (?:{_PRONOUN}) ,? \s++ ){{0,4}}+
    {_LINK}?+ {_ADVERB}{{0,2}}+
    (?: (?:wrong|incorrect|false|invalid|extraneous|rejected|excluded|ruled\s+out|discarded|untrue
        |contradictory) \b
      | the \s+ wrong \b
      | unlikely \b | doubtful \b
      | (?:impossible|not\s+possible) \b (?! \s+ (?:to|for|that) )
      | not \s+ (?:right|correct|true|valid|allowed|acceptable|possible|what|it) \b
      | not \s+ (?:a|the) \s+ (?:solution|answer|root) \b
      | too \s+ (?:large|small|big|high|low|great|little|long|short|many|few|much) \b (?! \s+ to )
      | an? \s+ (?:[a-z]+\s+)?+
            (?:mistake|error|trap|distractor|typo|contradiction|overestimate|underestimate|overcount
        |undercount|misprint) \b
      | an? \s+ (?:strict\s+)?+ (?:lower|upper) \s+ (?:bound|estimate|limit) \b
      | (?:lead|leads|led) \s+ to \s+ an? \s+ contradiction \b
      | (?:cannot|can['’]t|can\s+not|could\s+not|couldn['’]t) \s+ (?:be|work|hold|happen) \b
      | (?:does|did) (?:\s+not|n['’]t) \s+ (?:work|hold|satisfy|fit|count|solve|make\s+sense) \b
      | fails \b | contradicts \b | violates \b | [{_CROSSES}] )
    """,
    re.IGNORECASE | re.VERBOSE,
)
DENIED_BEHIND_IN_CHINESE = re.compile(
    rf"""
    {_BOX_END} [，,；;：:（(]*+ \s*+
    (?:但是?|然而)? (?:[这它该此他她]个?)? (?:答案|结果|值|解)? (?:显然|明显)? [是为就应要被]?
    (?: 错 | 算错 | 不对 | 不正确 | 不符 | 不合 | 不满足 | 不成立 | 不可能 | 矛盾 | 有误 | 舍 | 排除
      | (?:代入|则|那么|产生|得出|导致) [^。\n]{{0,10}} (?:矛盾|不成立) )
    """,
    re.VERBOSE,
)
#: The same in German, French, Spanish, Italian, Portuguese, Russian and Japanese.
DENIED_BEHIND_ELSEWHERE = re.compile(
    rf"""
    {_BOX_END} ,? \s*
    (?: ist \s+ (?:falsch|nicht|inkorrekt) | n['’]est \s+ pas | est \s+ (?:faux|fausse|incorrecte?)
      | no \s+ es | es \s+ (?:incorrect[oa]|fals[oa]|erróne[oa])
      | non \s+ è | è \s+ (?:sbagliat[oa]|fals[oa]|errat[oa])
      | não \s+ é | (?:está|é) \s+ (?:errad[oa]|incorret[oa]|fals[oa])
      | (?:—|-)? \s* (?:это \s+)? (?:не(?:верн|правильн)(?:о|ый\s+ответ)|не\s+(?:является|верно|ответ)) )
      (?!\w)
    | {_BOX_END} (?: で(?:は|も)な[いく] | じゃない | は(?:間違い|誤り|違う) | 아니 )
    """,
    re.IGNORECASE | re.VERBOSE,
)
IS_NOT = re.compile(
    rf"{_BOX_END} (?:is|was)(?:\s+not\b(?!\s+only)|n['’]t\b|\s+impossible\b)", re.IGNORECASE | re.VERBOSE
)
ASKED = re.compile(
    rf"{_BOX_END} [\"”')]? \? (?! \s* (?:yes|indeed|correct|right|exactly|sure)\b )",
    re.IGNORECASE | re.VERBOSE,
)
#: A verb behind a box says something about it; only what confirms it leaves it an answer.
VERB_BEHIND = re.compile(
    rf"""
    {_BOX_END} (?: [,(—–-]{{1,3}}+ \s*+ (?:which|this|that|it) \s++ (?!(?:is|are|was|were)\b) )?+
    (?: (?:is|are|was|were|becomes|became|must|has|have|needs?|may|might|can|could|would|should|will
        |does|did) \b
      | (?:over|under|double-?)?counts \b | (?:overlooks|neglects|forgets|assumes) \b
      | (?:contradicts|violates|fails|exceeds|omits|ignores|misses|satisfies|solves|seems|looks|sounds
        |appears|feels) \b
      | (?:gets|got|drops|falls|lies|goes|turns|cannot|can['’]t|never|hardly|works?|occurs|happens|makes) \b
      | (?:differs|comes|counts|leads|belongs) \s )
    """,
    re.IGNORECASE | re.VERBOSE,
)
#: Words behind a box that go back on it in the next clause, or say that its value is still to be changed.
REVISED_BEHIND = re.compile(
    rf"""
    {_BOX_END} (?:[.;,!]+ \s*+)?+ (?: (?:and|but|so|now|next|finally|however),? \s++ )?+ (?: then,? \s++ )?+
    (?: (?:this|that|it|which) \s+ (?:also\s+|still\s+)? (?:
            (?:over|under|double-?)counts? | counts \b [^.\n]{{0,40}} \b (?:twice|thrice|times|double)
            | (?:ignores|neglects|forgets|omits|misses|overlooks) ) \b
      | (?:we|you|i|one) \s+
            (?: (?:must|need\s+to|have\s+to|should|still|also|then|now|finally|just) \s+ ){{1,4}}
            (?:{_CHANGES}|account|correct|adjust|include|exclude|remove) (?![\s-]*check) \b
      | (?:{_CHANGES}) (?![\s-]*check) \s+ (?:this|that|it|by|\d|one|two|the\s+(?:result|answer)) \b
      | (?:doubling|halving|tripling|adding|subtracting|multiplying|dividing|squaring) \s+
            (?:this|that|it|by|\d|one|two|the\s+(?:result|answer|last|first|other)) \b
      | (?:twice|half|double|triple) \s+ (?:that|this|it) \s+ is \b
      | the \s+ (?:true|correct|right|actual|real) \s+ (?:value|answer|one|result) \s+ is \s+
            (?:one|two|twice|half|double|\d+) \s+ (?:more|less|that|this|as) \b
      | results \s+ (?:if|when|from) \b )
    """,
    re.IGNORECASE | re.VERBOSE,
)
_GOOD = any_of(
    """
    answer solution result value choice option number total sum area length distance maximum minimum
            probability limit
    correct right true prime possible valid attained achieved reached optimal best smallest largest least
    greatest required desired obtained found given derived confirmed verified computed calculated expected
    reasonable consistent equal equivalent approximately about roughly already positive negative
            integer rational
    irrational even odd simplified clear
    """
)
CONFIRMED_BEHIND = re.compile(
    rf"""
    {_BOX_END} (?: [,(—–-]{{1,3}}+ \s*+ (?:which|this|that|it) \s++ )?+
    (?: (?:is|are|was|were) | (?:must|should|will|would|can) \s+ (?:be|therefore\s+be) ) \s+
    (?! an? \s+ (?:\w+\s+)? (?:tempting|{_COMMON}) \s ) (?: the \s+ only \s+ )?+ (?:
            (?!(?:not|never|no|wrong|incorrect|false|double|half|twice|square|cube|less|more|most
        |before|after|lower|upper|first|one|two
          |invalid|only|times|far|too|old|previous|naive)\b) [\w'’-]+ \s+ ){{0,4}}?
    (?: (?:{_GOOD}) \b (?! \s+ (?:if|when|unless|only|for) \b )
        | what \s+ (?:we|was|is|you) \b (?! [^.\n]{{0,40}} \b (?:if|when|without|by)\b )
            | [\d$\\] )
    | {_BOX_END} , \s* which \s+ (?:can|may) \s+ (?:also\s+)?be \s+
            (?:written|expressed|simplified|rewritten|seen|checked|verified|approximated) \b
    | {_BOX_END} , \s* which \s+ (?:occurs|happens|agrees|matches|equals|means) \b
    | {_BOX_END} (?:does|did) \s+ (?:satisfy|work|fit|hold|solve) \b
    | {_BOX_END} (?:has|have) \s+ (?! (?:to|been)\b )
    | {_BOX_END}
            (?:works|satisfies\s+(?:the|all|both|every|our|this)|solves\s+(?:the|our|it)|makes\s+sense
        |fits) \b (?! [^.\n]* \b (?:so|also|too|but|not|and\s+so) \b )
    """,
    re.IGNORECASE | re.VERBOSE,
)
#: Words behind a box that make another value of it, add a condition, or go back on it.
OPEN_BEHIND = re.compile(
    rf"""
    {_BOX_END} (?:\\?% [\s$]*+)?+ (?:[.]{{3}} \s*+)?+ [,(—–-]{{0,3}}+ \s*+
    (?: unless \b | with \s+ (?:probability|chance|likelihood) \b
      | if \b (?! \s+ and \s+ only ) | for \s+ (?:even|odd|positive|negative) \b
            | in \s+ (?:the\s+(?:first|second|other)|one) \s+ case \b
      | would \s+ (?:all\s+)?do \b | or \s+ (?:not|something|\d) \b
      | plus \b | minus \b | divided \s+ by \b | (?:doubled|halved|tripled) \b
            | (?:reduced|increased|decreased|diminished) \s+ by \b
      | less \s+ [\d$\\] | to \s+ the \s+ \w+ \s+ power \b | to \s+ the \s+ power \b
            | raised \s+ to \b | per \s+ (?:thousand|mille|million) \b
      | and \s+ an? \s+ (?:half|third|quarter) \b
            | or \s+ (?:higher|lower|above|below|bigger|smaller|larger|so
            |thereabouts) \b | / \s* [\d$]
      | times \s+ [\d$\\] | (?:percent\s+)?+ of \s+ [\d$\\] | out \s+ of \s+ [\d$\\] | short \s+ of \b
      | by \s+ (?:[$\\]|\d{{1,3}}(?!\d))
      | give \s+ or \s+ take \b | more \s+ or \s+ less \b
      | (?:for \s+ (?:example|instance) | (?:as|to\s+give) \s+ an \s+ example) \b (?= \s* (?:[.,;)]|\Z) )
      | off \b | or \s+ is \s+ it \b | I \s+ mean \b | sorry \b | oops \b | not \s+ sure \b | unsure \b
      | (?:could|might|may) \s+ (?:also\s+)?be \b
            | (?:->|→|\\(?:to|rightarrow)(?![a-zA-Z])) [\s$]*+ (?:{_BOX_END})?+ -?[\d\\]
      | wrong \b | ~~ | the \s+ claim \s+ is \b
      | vs\b | versus \b
      | (?:strike|scratch) \s+ that \b | nope \b | no \s* [,.] | not \s+ (?:quite|exactly) \b
      | (?<=\() (?:maybe|perhaps|possibly|or|before|without|not\s+counting|up\s+to|ignoring) \b
      | but \b (?! \s+ (?:not|never|no|nothing|only|note|notice|recall|remember)\b ) | however \b | yet \b )
    """,
    re.IGNORECASE | re.VERBOSE,
)

_VALUE = r"""(?:
    \$ [^$\n]{1,60} \$ | \\\( [^\n]{1,60}? \\\)
            | -? \\[dt]?frac \{ [^{}\n]{1,20} \} \{ [^{}\n]{1,20} \} (?![\w^({])
    | \( [^()\n]{1,40} \) | -? \d[\d.,]*+ (?:/\d+)? (?![\w^*({/])
)"""
#: The end of a clause.
_CLAUSE_END = r"(?= [\s$)]* (?: \Z | \n | [.;!] (?:\s|\Z) ) | \$?\s+are\b )"
#: Other values that are a list with the box.
LISTED = re.compile(
    rf"""
    {_BOX_END} (?: [,;&] | \\& | and\b | as\s+well\s+as\b | together\s+with\b )+ \s*+ (?:(?:and|also)\s+)?
    (?P<value> {_VALUE} ) {_CLAUSE_END}
    """,
    re.IGNORECASE | re.VERBOSE,
)
OTHER_BEHIND = re.compile(
    rf"""
    {_BOX_END} [.;,] \s+ (?: (?:or|alternatively|another|also|the\s+other) \b [^.;\n\d$]{{0,40}} )
            (?P<value> {_VALUE} ) {_CLAUSE_END}
    """,
    re.IGNORECASE | re.VERBOSE,
)
NO_BEHIND = re.compile(rf"{_BOX_END} [.!?] \s+ (?:\w+:\s*)? no \b [,.!:]", re.IGNORECASE | re.VERBOSE)
#: Another value beside the box. A decimal or a share behind a fraction is rather the same value again.
ALTERNATIVE = re.compile(
    rf"""
    {_BOX_END} ,? \s*+ (?: [.]{{3}} \s*+ )?+ (?: \( \s*+ )?+
    (?: (?: or | perhaps | maybe | possibly | alternatively,? ) \s++
        (?: (?:maybe|perhaps|possibly|even|else|also|it\s+(?:could|might|may)\s+(?:also\s+)?be) ,? \s++
            ){{0,2}}+ )
    (?P<value> {_VALUE} ) (?! [\d%] | \s*\\?% )
    """,
    re.IGNORECASE | re.VERBOSE,
)

#: Words that withdraw what was said before them.
WITHDRAWN = re.compile(
    rf"""
    \b (?: oops | whoops | scratch \s+ that | my \s+ (?:mistake|bad)
         | on \s+ second \s+ thoughts? | I \s+ take \s+ (?:that|it) \s+ back
         | I \s+ (?:(?:have|had|just)\s+)?
            (?:misread|miscounted|miscalculated|misunderstood|overlooked|forgot)
         | I \s+ (?:(?:have|just)\s+)? made \s+ (?:a|an|another|some) \s+ (?:\w+\s+)? (?:mistake|error)s?
         | I \s+ was \s+ (?:wrong|mistaken|off) | I \s+ (?:should|must) \s+ have | I \s+ disagree
         | (?:this|that|it|which|answer|typo:?) \s+ should \s+ (?:be|have\s+been|read) \s+ (?= not\b
            | {_VALUE} )
         | (?:above|previous|earlier) \s+ (?:answer|result|value|box) \s+ (?:is|was) \s+
            (?:not|wrong|incorrect)
         | (?:ignore|disregard|forget) \s+ (?: that | this | my | what | the \s+ (?:box|above|answer) ) \b
         | strike \s+ that
         | (?:espera|espere|aspetta|attend[sz]?|attendez|moment|warte|нет|подожди(?:те)?) ,? \s+
            [^.\n]{{0,30}} (?:respuesta|réponse|antwort|ответ|risposta|resposta)
         | let \s+ me \s+ (?:correct|reconsider|redo|recompute|recalculate|try\s+again|start\s+over|fix)
         | (?:erratum|edit|correction|typo) \s* :
         | (?:das|dies) \s+ ist \s+ (?:falsch|nicht\s+richtig)
         | es[ot]o? \s+ (?:es|está) \s+ (?:incorrecto|mal)
         | c['’]est \s+ (?:faux|incorrect) | это \s+ (?:неверно|неправильно) | è \s+ sbagliato
         | isso \s+ está \s+ errado
         | (?:I\s+have\s+|really\s+|actually,?\s+)? no \s+ idea (?! \s+ (?:what|why|how|who|where)\b ) )
    | \b I \s+ (?:now\s+)? realiz|(?:\b(?:wait|hold\s+on|but\s+we)\b [^.\n]{{0,10}} \b (?:I|we) \s+
            (?:need|must|have\s+to|should|forgot|missed)\b)
    | (?<!\bif\s) \b we \s+ (?:forgot|missed|overlooked|double-?counted|overcounted)
    | (?: [.!?—–\n-] \s* | \b (?:no|wait|actually|sorry|hmm+|hm|however|but) [,.…]* \s+ )
      (?: that | this | (?:the|my) \s+ (?:answer|result|above) ) (?: \s+(?:is|was) | ['’]s
            | \s+can(?:no|['’])t\s+be )
      (?: \s+ (?:actually|clearly|still|also|obviously) )?
      (?: \s+ (?:wrong|incorrect|not\s+(?:right|correct|true|it)|a\s+mistake|mistaken|false)
            | n['’]t \s+ (?:right|correct|true) | (?<=be)\s+right )
    """,
    re.IGNORECASE | re.VERBOSE,
)
#: Parts of words of which every withdrawal has one: most texts have none, and need no slower look.
SIGNS_OF_WITHDRAWAL = (
    "oops", "whoops", "scratch that", "strike that", "respuesta", "réponse", "antwort", "ответ", "rispost",
    "resposta", "my bad", "mistake", "second thought", "that back", "it back",
    "misread", "miscount", "miscalc", "misunder", "overlook", "forgot", "error", "wrong", "incorrect",
    "i was off", "must have", "should", "disagree", "ignore", "disregard", "forget", "let me", "erratum",
    "edit", "correction", "typo", "realiz", "wait", "hold on", "but we", "missed", "double", "overcount",
    "not correct", "not right", "not true", "is not it", "s not it", "n't right", "n't correct", "n't true",
    "n’t", "false", "be right", "no idea",
    "falsch", "nicht richtig", "está mal", "est faux", "неверно", "неправильно", "sbagliato", "errado",
)  # fmt: skip
#: Words behind a number that are no noun: "5 more than", "3 of them".
_NO_NOUN = any_of(
    """
    more less fewer times of and or plus minus as which because since if when with by for choose out to than
    mod modulo percent from is are was but so squared cubed
    """
)
_NUMBER_WORDS = "|".join(SMALL)
#: Another value that the text goes on to, from the box.
GOES_ON = re.compile(
    rf"""
    (?: \b (?:subtract|add|multipl|divid|doubl|halv|tripl|squar)[a-z]{{0,5}} \b [^.\n]{{0,60}}
        \b (?: to \s+ (?:get|obtain|find|give) | gives | giving | (?:we|you) \s+ get | yields )
      | \b (?:hence|thus|therefore|so|then) \b [^.\n]{{0,60}}
        \b (?: asked \s+ for | wanted | sought | required | requested
            | in \s+ question ) \s+ (?:is|are|equals|=)
      | \b (?:hence|thus|therefore|so|then) \b [^.\n]{{0,80}} \b (?:is|are|equals)
      | \b (?:answer|result) \b [^.\n]{{0,40}} (?: \b (?:is|are|equals) | , )
      | \b (?:hence|thus|therefore|so) [,:]? (?: \s+
            (?:it\s+is|it['’]s|there\s+(?:are|is)|we\s+(?:get|have|halve\s+it)) [,:]? )?
      | \b I (?: \s+ (?:will|would|shall|am\s+going\s+to) | ['’](?:ll|d) )? \s+
            (?:go\s+with|settle\s+(?:on|for)|stick\s+with)
      | \b (?:giving|becomes|making\s+it|which\s+makes) | \b (?:I|we) \s+ (?:find|get|obtain|have)
      | \b including \b [^.\n]{{0,60}} , | \b (?:after|once) \b [^.\n]{{0,40}} (?:correct|symmetr|adjust)\w*
      | \b (?:correct|true|actual|real|right) \s+
        (?:value|one|answer|result|maximum|minimum|number) \s+ (?:is|was|would\s+be|should\s+be)
      | \b (?:in\s+(?:fact|reality|truth)|actually) ,? \s+ (?:it|that|this|the\s+(?:answer|result|value))
        (?: \s+ (?:is|equals|should\s+be|must\s+be) | ['’]s )
      | \b (?: I \s+ meant? | make \s+ (?:that|it) | (?:so\s+)? in \s+ total ,? )
      | \b (?: sorry | apologies | (?:up)?on \s+ reflection | kidding | hmm+ ) \b [^.\n]{{0,40}}
      | \b each ,? (?: \s+ (?:so|making|or|for) )? )
    \s+ (?:about\s+)? (?P<value> {_VALUE} | (?:{_NUMBER_WORDS}) (?:-(?:{_NUMBER_WORDS}))? )
    (?= (?: \s+ (?!(?:{_NO_NOUN})\b) [a-z]+ ){{0,3}} [\s.!)]* (?:\Z | \n | [.!]\s) )
    """,
    re.IGNORECASE | re.VERBOSE,
)
#: "And then y = 6 is the answer."
IS_THE_ANSWER = re.compile(
    r"""
    (?P<value> \$ [^$\n]{1,60} \$ | \\\( [^\n]{1,60}? \\\) | (?<![\d.,(]) -? \d[\d.,]*+ (?:/\d+)? )
    \s+ is \s+ (?:the|our|my) \s+ (?:final\s+|desired\s+|required\s+|correct\s+)? (?:answer|result)
    (?= [\s)]* (?:\Z|[.!\n]) )
    """,
    re.IGNORECASE | re.VERBOSE,
)
GOES_ON_IN_CHINESE = re.compile(
    r"""
    (?:实际上|事实上|其实|正确的?(?:答案|结果|值)) [，,]? (?:答案|结果)? (?:应该|应当|应)? (?:是|为|等于) \s*
    (?P<value> -?\d[\d.]*+ (?:/\d+)? | \$[^$\n]{1,60}\$ )
    """,
    re.VERBOSE,
)
CHECKING = re.compile(r"\b(?:check|verif\w+|indeed|note|remark|explanation|reason\w*|proof)\b", re.IGNORECASE)
#: Another turn or problem begins: what follows is not about this answer.
ELSEWHERE = re.compile(
    r"<\||</?s>|\n\s*(?:#+\s*)?(?:human|user|assistant|question|problem|instruction)\b", re.IGNORECASE
)

#: Words before a box that make its value another one, or a bound. "At least" and "at most" count if they
#: bound the answer itself: "they need at least \boxed{23} people" may be what was asked for.
CHANGED_BEFORE = re.compile(
    r"""
    (?<![a-zA-Z])
    (?: (?:less|more|greater|fewer|larger|smaller|lower|higher|bigger|other|rather) \s+ than
      | (?:far|different|distinct) \s+ from | anything \s+ but | nowhere \s+ near
      | instead \s+ of | except (?:\s+for)? | excluding | neither | exceed(?:s|ing)?
      | (?:half|twice|thrice|double|triple|minus|negative) (?:\s+of)?
      | (?:square|cube|(?:square|cube)\s+root|root|reciprocal|opposite|inverse) \s+ of
      | (?<=answer\sis\s|result\sis\s) (?:at\s+(?:least|most)|up\s+to|no\s+(?:more|less)\s+than|under|over)
    ) (?= (?:\s+(?:the|an?|about|value|number|of))* [\s$({]* (?:\\[(\[])? \s* \Z )
    """,
    re.IGNORECASE | re.VERBOSE,
)
#: The last words of what `CHANGED_BEFORE` finds.
ENDS_OF_CHANGES = word_set(
    """
    than from but near of except for excluding neither exceed exceeds exceeding half twice thrice double
    triple minus negative least most to under over the a an about value number
    """
)
#: "No rectangle has more than \boxed{25}" states a maximum.
NONE_HAS_MORE = re.compile(r"(?:\A|[.;,]\s|\bso\s)\s*no\s+[a-z]+\s[^.;,\n]{0,40}\Z", re.IGNORECASE)
#: Words behind a box that scale its value, or make it a bound.
CHANGED_BEHIND = re.compile(
    r"""
    [\s$~]*+ (?:\\[)\],;:!\ ]\s*+)? (?:\\text\s*+\{\s*+)?
    ( (?:hundred|thousand|million|billion|trillion)s? | dozen | (?:ten|hundred|thousand|million)ths
      | squared | cubed | factorial | or \s+ (?:more|less|fewer|greater) | at \s+ (?:least|most)
      | (?:hours?|hrs?|minutes?|days?|weeks?|years?|feet|foot|ft|yards?|miles?|met(?:er|re)s?|pounds?|lbs?
        |dollars?|degrees?|gallons?) (?:\s*,|\s+and)? \s+ [\d.]+ \s+
        (?:minutes?|mins?|seconds?|hours?|days?|weeks?|months?|inch(?:es)?|feet|yards?|ounces?|oz|cents?
        |centimet(?:er|re)s?|cm|quarts?)
    ) (?![a-zA-Z])
    """,
    re.VERBOSE,
)
